//! The boards, for tools on a host: what builds and flashes firmware for each, and where its model
//! lies. What a board is to a program, its own file in `boards/` says.

/// A board with a file in `boards/`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Board {
    /// The name by which users call it.
    pub name: &'static str,
    /// The feature of this crate that selects it, and the name of its files.
    pub feature: &'static str,
    /// What it is, for people.
    pub about: &'static str,
    /// The Rust target of its processor.
    pub target: &'static str,
    /// The processor, by rustc's name, where that says of instructions that not all of the target
    /// have.
    pub cpu: Option<&'static str>,
    /// QEMU's name of it, if QEMU emulates it.
    pub machine: Option<&'static str>,
    /// The name that `probe-rs` has for its chip, if it exists outside of QEMU.
    pub chip: Option<&'static str>,
    /// The family in the blocks of a UF2 file, if its boot loader takes such files.
    pub uf2_family: Option<u32>,
    /// The crates that its file uses, besides `cortex-m` and `embedded-io`.
    pub crates: &'static [&'static str],
    /// Its file.
    pub source: &'static str,
    /// The modules of its file in files beside it: their names and texts.
    pub modules: &'static [(&'static str, &'static str)],
    /// Its linker script.
    pub memory: &'static str,
}

/// A range of addresses.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first address.
    pub start: u32,
    /// How many bytes.
    pub bytes: u32,
}

/// Modules that several boards have.
const SYSTICK: (&str, &str) = ("systick.rs", include_str!("../boards/systick.rs"));
const DWT: (&str, &str) = ("dwt.rs", include_str!("../boards/dwt.rs"));

const MPS2: Board = Board {
    name: "mps2-an386",
    feature: "mps2",
    about: "Arm's MPS2 with image AN386 in QEMU: Cortex-M4F",
    target: "thumbv7em-none-eabihf",
    cpu: None,
    machine: Some("mps2-an386"),
    chip: None,
    uf2_family: None,
    crates: &[],
    source: include_str!("../boards/mps2.rs"),
    modules: &[SYSTICK],
    memory: include_str!("../boards/mps2.x"),
};

/// Every board.
pub const BOARDS: [Board; 9] = [
    MPS2,
    Board {
        name: "mps2-an385",
        about: "Arm's MPS2 with image AN385 in QEMU: Cortex-M3",
        target: "thumbv7m-none-eabi",
        cpu: None,
        machine: Some("mps2-an385"),
        ..MPS2
    },
    Board {
        name: "mps2-an500",
        about: "Arm's MPS2 with image AN500 in QEMU: Cortex-M7",
        machine: Some("mps2-an500"),
        ..MPS2
    },
    Board {
        name: "mps2-an505",
        feature: "mps2-an505",
        about: "Arm's MPS2 with image AN505 in QEMU: Cortex-M33",
        target: "thumbv8m.main-none-eabihf",
        cpu: None,
        machine: Some("mps2-an505"),
        memory: include_str!("../boards/mps2-an505.x"),
        ..MPS2
    },
    Board {
        name: "microbit",
        feature: "microbit",
        about: "BBC micro:bit version 1, nRF51822: Cortex-M0",
        target: "thumbv6m-none-eabi",
        cpu: None,
        machine: Some("microbit"),
        chip: Some("nRF51822_xxAA"),
        uf2_family: None,
        crates: &["embedded-hal", "nrf51-hal"],
        source: include_str!("../boards/microbit.rs"),
        modules: &[],
        memory: include_str!("../boards/microbit.x"),
    },
    Board {
        name: "netduinoplus2",
        feature: "netduinoplus2",
        about: "Netduino Plus 2 and STM32F4DISCOVERY, STM32F405 and F407: Cortex-M4F",
        target: "thumbv7em-none-eabihf",
        cpu: None,
        machine: Some("netduinoplus2"),
        chip: Some("STM32F405RGTx"),
        uf2_family: None,
        crates: &["stm32f4xx-hal"],
        source: include_str!("../boards/netduinoplus2.rs"),
        modules: &[SYSTICK],
        memory: include_str!("../boards/netduinoplus2.x"),
    },
    Board {
        name: "nrf52840-dk",
        feature: "nrf52840-dk",
        about: "Nordic's nRF52840-DK: Cortex-M4F",
        target: "thumbv7em-none-eabihf",
        cpu: None,
        machine: None,
        chip: Some("nRF52840_xxAA"),
        uf2_family: None,
        crates: &["nrf52840-hal"],
        source: include_str!("../boards/nrf52840-dk.rs"),
        modules: &[DWT],
        memory: include_str!("../boards/nrf52840-dk.x"),
    },
    Board {
        name: "pico",
        feature: "pico",
        about: "Raspberry Pi Pico, RP2040: Cortex-M0+",
        target: "thumbv6m-none-eabi",
        cpu: None,
        machine: None,
        chip: Some("RP2040"),
        uf2_family: Some(0xE48B_FF56),
        crates: &["rp2040-boot2", "rp2040-hal"],
        source: include_str!("../boards/pico.rs"),
        modules: &[SYSTICK],
        memory: include_str!("../boards/pico.x"),
    },
    Board {
        name: "pico2",
        feature: "pico2",
        about: "Raspberry Pi Pico 2, RP2350: Cortex-M33",
        target: "thumbv8m.main-none-eabihf",
        cpu: Some("cortex-m33"),
        machine: None,
        chip: Some("RP235x"),
        uf2_family: Some(0xE48B_FF59),
        crates: &["rp235x-hal"],
        source: include_str!("../boards/pico2.rs"),
        modules: &[DWT],
        memory: include_str!("../boards/pico2.x"),
    },
];

impl Board {
    /// The board of a name.
    pub fn named(name: &str) -> Option<&'static Self> {
        BOARDS.iter().find(|board| board.name == name)
    }

    /// The region MODEL of its linker script; `None` if that has none.
    pub fn model_region(&self) -> Option<Region> {
        let mut lines = self.memory.lines().map(str::trim_start);
        let (_, line) = lines
            .find(|line| line.starts_with("MODEL"))?
            .split_once("ORIGIN = 0x")?;
        let (start, length) = line.split_once(", LENGTH = ")?;
        let digits = length.trim_end_matches(['K', 'M']);
        let unit = match length.strip_prefix(digits)? {
            "K" => 1024,
            "M" => 1024 * 1024,
            _ => 1,
        };
        Some(Region {
            start: u32::from_str_radix(start, 16).ok()?,
            bytes: digits.parse::<u32>().ok()?.checked_mul(unit)?,
        })
    }
}
