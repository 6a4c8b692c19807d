//! A model as a file that flash tools take: its bytes at the address of the region that a board's
//! firmware has for it, so that the model is flashed alone.

use std::str::FromStr;

use firmware_example::boards::Region;
use ihex::Record;
use object::Endianness;
use object::elf;
use object::write::elf::{FileHeader, ProgramHeader, SectionHeader, Writer};
use thiserror::Error;

/// The kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The bytes alone: the tool is told the address.
    Bin,
    /// Intel HEX.
    Hex,
    /// Blocks for boot loaders that show as a disk, with the family of the chip.
    Uf2,
    /// A 32-bit ELF file for Arm with one loaded segment.
    Elf,
}

impl FromStr for Format {
    type Err = PackError;

    /// Reads the ending of a file's name.
    fn from_str(ending: &str) -> Result<Self, PackError> {
        match ending {
            "bin" => Ok(Self::Bin),
            "hex" => Ok(Self::Hex),
            "uf2" => Ok(Self::Uf2),
            "elf" => Ok(Self::Elf),
            _ => Err(PackError::Ending),
        }
    }
}

/// Why a model is not packed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PackError {
    /// No format is called so.
    #[error("a model is packed as .bin, .hex, .uf2 or .elf")]
    Ending,
    /// The blob is larger than the region.
    #[error("{bytes} bytes do not fit the {room} of the region at {start:#010x}")]
    TooLarge {
        /// Bytes of the blob.
        bytes: usize,
        /// Bytes of the region.
        room: u32,
        /// Where it starts.
        start: u32,
    },
    /// The boot loader of the chip takes no UF2 files.
    #[error("no UF2 family is known: the board's boot loader takes no such files")]
    Family,
    /// A library objects.
    #[error("{0}")]
    Encoding(String),
}

/// Bytes of a UF2 block's data.
const UF2_DATA: usize = 256;

/// The file with `blob` at the start of `region`.
///
/// `uf2_family` is needed for UF2 files only.
///
/// # Errors
/// [`PackError`], if the blob does not fit or the family is missing.
pub fn pack(
    blob: &[u8],
    region: Region,
    format: Format,
    uf2_family: Option<u32>,
) -> Result<Vec<u8>, PackError> {
    if blob.len() > region.bytes as usize {
        return Err(PackError::TooLarge {
            bytes: blob.len(),
            room: region.bytes,
            start: region.start,
        });
    }
    match format {
        Format::Bin => Ok(blob.to_vec()),
        Format::Hex => hex(blob, region.start),
        Format::Uf2 => Ok(uf2(
            blob,
            region.start,
            uf2_family.ok_or(PackError::Family)?,
        )),
        Format::Elf => elf(blob, region.start),
    }
}

/// Records of 16 bytes, and one for each 64 KiB that they lie in.
fn hex(blob: &[u8], start: u32) -> Result<Vec<u8>, PackError> {
    let mut records = Vec::new();
    let mut upper = None;
    let mut at = start;
    for line in blob.chunks(16) {
        if upper != Some(at >> 16) {
            upper = Some(at >> 16);
            records.push(Record::ExtendedLinearAddress((at >> 16) as u16));
        }
        records.push(Record::Data {
            offset: at as u16,
            value: line.to_vec(),
        });
        at += line.len() as u32;
    }
    records.push(Record::EndOfFile);
    ihex::create_object_file_representation(&records)
        .map(|text| (text + "\n").into_bytes())
        .map_err(|error| PackError::Encoding(error.to_string()))
}

/// Blocks of 512 bytes (<https://github.com/microsoft/uf2>), the last filled up as erased flash is.
fn uf2(blob: &[u8], start: u32, family: u32) -> Vec<u8> {
    const MAGIC: [u32; 2] = [0x0A32_4655, 0x9E5D_5157];
    const FINAL_MAGIC: u32 = 0x0AB1_6F30;
    const FAMILY_PRESENT: u32 = 0x2000;
    let blocks = blob.len().div_ceil(UF2_DATA) as u32;
    let mut file = Vec::new();
    for (number, data) in (0..).zip(blob.chunks(UF2_DATA)) {
        let header = [
            MAGIC[0],
            MAGIC[1],
            FAMILY_PRESENT,
            start + number * UF2_DATA as u32,
            UF2_DATA as u32,
            number,
            blocks,
            family,
        ];
        file.extend(header.iter().flat_map(|word| word.to_le_bytes()));
        let mut room = [0; 476];
        room[..UF2_DATA].fill(0xFF);
        room[..data.len()].copy_from_slice(data);
        file.extend(room);
        file.extend(FINAL_MAGIC.to_le_bytes());
    }
    file
}

fn elf(blob: &[u8], start: u32) -> Result<Vec<u8>, PackError> {
    let mut file = Vec::new();
    let mut writer = Writer::new(Endianness::Little, false, &mut file);
    let size = blob.len() as u64;
    let align = 4;

    writer.reserve_file_header();
    writer.reserve_program_headers(1);
    let offset = writer.reserve(blob.len(), align);
    writer.reserve_null_section_index();
    writer.reserve_section_index();
    let name = writer.add_section_name(b".model");
    writer.reserve_shstrtab_section_index();
    writer.reserve_shstrtab();
    writer.reserve_section_headers();

    writer
        .write_file_header(&FileHeader {
            os_abi: elf::ELFOSABI_NONE,
            abi_version: 0,
            e_type: elf::ET_EXEC,
            e_machine: elf::EM_ARM,
            e_entry: 0,
            e_flags: elf::EF_ARM_EABI_VER5,
        })
        .map_err(|error| PackError::Encoding(error.to_string()))?;
    writer.write_align_program_headers();
    writer.write_program_header(&ProgramHeader {
        p_type: elf::PT_LOAD,
        p_flags: elf::PF_R,
        p_offset: offset as u64,
        p_vaddr: start.into(),
        p_paddr: start.into(),
        p_filesz: size,
        p_memsz: size,
        p_align: align as u64,
    });
    writer.write_align(align);
    writer.write(blob);
    writer.write_shstrtab();
    writer.write_null_section_header();
    writer.write_section_header(&SectionHeader {
        name: Some(name),
        sh_type: elf::SHT_PROGBITS,
        sh_flags: elf::SHF_ALLOC.into(),
        sh_addr: start.into(),
        sh_offset: offset as u64,
        sh_size: size,
        sh_link: 0,
        sh_info: 0,
        sh_addralign: align as u64,
        sh_entsize: 0,
    });
    writer.write_shstrtab_section_header();
    Ok(file)
}
