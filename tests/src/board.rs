//! Boards: their firmware builds and fits, models are packed for them, and a project for each
//! builds and, where QEMU emulates the board, runs.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use firmware_example::boards::{BOARDS, Board, Region};
use kan_train_host::emulator::{self, Machine, Size};
use kan_train_host::evaluator::Evaluator;
use kan_train_host::pack::{Format, PackError, pack};
use object::{Object, ObjectSegment};

use crate::command_line::Desk;
use crate::device::Blob;

#[test]
fn boards_have_names_and_regions_of_their_own_after_the_program() {
    for board in &BOARDS {
        assert_eq!(Board::named(board.name), Some(board));
        let region = board.model_region().expect("each has a region for a model");
        assert!(
            region.start.is_multiple_of(4096) && region.bytes >= 128 * 1024,
            "{region:?}"
        );
        assert!(board.machine.is_some() || board.chip.is_some());
    }
    for machine in Machine::ALL {
        assert_eq!(machine.board().machine, Some(machine.name()));
    }
    assert_eq!(
        Board::named("microbit").and_then(Board::model_region),
        Some(Region {
            start: 0x18000,
            bytes: 160 * 1024,
        })
    );
    assert_eq!(Board::named("pdp11"), None);
}

/// Prints a table of sizes too.
#[test]
fn the_firmware_of_every_board_builds_and_fits() {
    println!("| board | server: flash | RAM | oven: flash | RAM |");
    println!("|---|---|---|---|---|");
    for board in &BOARDS {
        let mut cells = String::new();
        for binary in ["serve", "regulate"] {
            // The boards of QEMU alone have no sensors.
            if binary == "regulate" && board.chip.is_none() {
                cells += " – | – |";
                continue;
            }
            let built = emulator::build(board, binary);
            let path = built.unwrap_or_else(|error| panic!("{}: {error}", board.name));
            let size = Size::of(&path).unwrap_or_else(|error| panic!("{error}"));
            cells += &format!(" {} | {} |", size.flash(), size.ram());
            assert!(
                size.flash() < 48 * 1024,
                "{} {binary}: {size:?}",
                board.name
            );
            // The stack needs the rest: of a micro:bit, 16 KiB.
            assert!(size.ram() < 4096, "{} {binary}: {size:?}", board.name);
            // What the host takes for the model's region is what the program does.
            let image = fs::read(&path).expect("it was read before");
            let file = object::File::parse(&*image).expect("it was parsed before");
            let region = board.model_region().expect("each has one");
            let symbol = |name| {
                let symbol = file.symbol_by_name(name);
                object::ObjectSymbol::address(&symbol.expect("by memory.x")) as u32
            };
            // The server's panic handler has no code: it links where no panic is reachable.
            let is_pico = board.name.starts_with("pico");
            let can_panic = file.symbols().any(|symbol| {
                let name = object::ObjectSymbol::name(&symbol);
                name.is_ok_and(|name| name.contains("panicking"))
            });
            assert_eq!(
                can_panic,
                binary == "regulate" || is_pico,
                "{} {binary}",
                board.name
            );
            // Every kind of tables, by the kernels of the processor.
            let has_dsp = file.symbols().any(|symbol| {
                let name = object::ObjectSymbol::name(&symbol);
                name.is_ok_and(|name| name.contains("6kernel3dsp"))
            });
            let expected = board.target.starts_with("thumbv7em") || board.name == "pico2";
            assert_eq!(has_dsp, expected, "{} {binary}", board.name);
            let (start, end) = (symbol("__model_start"), symbol("__model_end"));
            assert_eq!((start, end - start), (region.start, region.bytes));
        }
        println!("| {} |{cells}", board.name);
    }
}

/// Every form holds the same bytes at the same address, as other people's readers find them.
#[test]
fn a_packed_model_is_read_back_by_the_tools_of_others() {
    // A long blob: it crosses a border of 64 KiB in Intel HEX.
    let blob: Vec<u8> = (0..70_001_u32)
        .map(|k| k.wrapping_mul(0x9E37_79B9).to_le_bytes()[3])
        .collect();
    let region = Region {
        start: 0x0801_F000,
        bytes: 1 << 20,
    };
    let packed = |format| pack(&blob, region, format, Some(0xE48B_FF56)).expect("it fits");

    assert_eq!(packed(Format::Bin), blob);

    let text = String::from_utf8(packed(Format::Hex)).expect("it is text");
    let (mut upper, mut read) = (0, Vec::new());
    for record in ihex::Reader::new(&text) {
        match record.expect("it is valid") {
            ihex::Record::ExtendedLinearAddress(value) => upper = u32::from(value) << 16,
            ihex::Record::Data { offset, value } => {
                let at = upper + u32::from(offset);
                assert_eq!(at, region.start + read.len() as u32);
                read.extend(value);
            }
            ihex::Record::EndOfFile => assert_eq!(read.len(), blob.len()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(read, blob);

    let uf2 = packed(Format::Uf2);
    assert_eq!(uf2.len(), blob.len().div_ceil(256) * 512);
    let (read, families) = uf2_decode::convert_from_uf2(&uf2).expect("it is valid");
    assert_eq!(read[..blob.len()], blob);
    assert!(read[blob.len()..].iter().all(|&byte| byte == 0xFF));
    assert_eq!(families.get(&0xE48B_FF56), Some(&region.start.into()));

    let elf = packed(Format::Elf);
    let file = object::File::parse(&*elf).expect("it is valid");
    assert_eq!(file.architecture(), object::Architecture::Arm);
    let segments: Vec<_> = file.segments().collect();
    assert_eq!(segments.len(), 1);
    assert_eq!(segments[0].address(), u64::from(region.start));
    assert_eq!(segments[0].data().expect("it is in the file"), blob);

    let small = Region {
        start: 0,
        bytes: 70_000,
    };
    let error = pack(&blob, small, Format::Bin, None).expect_err("it does not fit");
    assert_eq!(
        error.to_string(),
        "70001 bytes do not fit the 70000 of the region at 0x00000000"
    );
    assert_eq!(
        pack(&blob, region, Format::Uf2, None),
        Err(PackError::Family)
    );
    assert_eq!("srec".parse::<Format>(), Err(PackError::Ending));
}

#[test]
fn models_are_packed_on_the_command_line() {
    let desk = Desk::new();
    let blob = Blob::random(3, false, &[2, 5, 1], false);
    desk.file("model.kan", blob.bytes());
    let said = desk.json("pack model.kan --board pico2 --out model.uf2");
    assert_eq!(said["address"], 0x1020_0000);
    assert_eq!(said["bytes"], blob.bytes().len());
    assert!(
        said["flash"]
            .as_str()
            .expect("a command")
            .contains("model.uf2")
    );
    let said = desk.json("pack model.kan --board nrf52840-dk --out model.bin");
    let command = "probe-rs download --chip nRF52840_xxAA --binary-format bin --base-address \
                   0x00080000 model.bin";
    assert_eq!(said["flash"], command);
    assert_eq!(desk.bytes("model.bin"), blob.bytes());
    desk.json("pack model.kan --address 0x08060000 --out model.hex");
    for (arguments, code, fragments) in [
        ("--board pdp11 --out m.hex", 2, &["pdp11", "microbit"][..]),
        ("--out m.hex", 2, &["--board"]),
        ("--board pico --address 0x4 --out m.hex", 2, &["--address"]),
        ("--address 0x3 --out m.hex", 2, &["multiple of four"]),
        ("--address zero --out m.hex", 2, &["hexadecimal"]),
        ("--board microbit --out m.uf2", 2, &["m.uf2", "UF2"]),
        ("--board microbit --out m.srec", 2, &["m.srec", ".hex"]),
        (
            "--address 0xFFFFFFFC --out m.hex",
            1,
            &["model.kan", "do not fit"],
        ),
        (
            "--board microbit --out no/m.hex",
            1,
            &["no/m.hex", "no folder"],
        ),
    ] {
        desk.fails(&format!("pack model.kan {arguments}"), code, fragments);
    }
}

/// The same settings as those of the workspace's firmware, so that the crates of boards are not
/// built twice.
const SHARED: [&str; 4] = [
    "--profile",
    "firmware",
    "--config",
    "profile.firmware.inherits=\"release\"",
];

/// The first line that a program says, which is then ended.
fn first_line(command: &mut Command) -> String {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let read = BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line);
    let _ = child.kill();
    child.wait().expect("it ends");
    read.expect("it is text");
    line
}

fn cargo(folder: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(folder);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG")
            || text.starts_with("CARGO_MANIFEST")
            || text == "RUSTFLAGS"
        {
            command.env_remove(&name);
        }
    }
    command
}

/// The outputs in the middle of the domain, as the generated program prints them.
fn expected(blob: &Blob) -> String {
    let evaluator = Evaluator::load(blob.bytes()).expect("the blob is good");
    format!("{:?} in ", evaluator.eval(&evaluator.centre()))
}

#[test]
fn a_project_for_every_board_builds_and_on_emulated_boards_runs() {
    let desk = Desk::new();
    let blob = Blob::random(3, false, &[2, 5, 2], false);
    desk.file("model.kan", blob.bytes());
    let built = emulator::build(&BOARDS[0], "serve").unwrap_or_else(|error| panic!("{error}"));
    // target/TARGET/firmware/serve
    let target = built.ancestors().nth(3).expect("cargo's folders");
    // In place of a debug probe.
    let probe = desk.path("probe-rs");
    fs::write(&probe, "#!/bin/sh\necho probe-rs \"$@\"\n").expect("the folder is writable");
    fs::set_permissions(&probe, Permissions::from_mode(0o755)).expect("it is ours");
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", desk.path("").display());
    for board in &BOARDS {
        let name = format!("project-{}", board.name);
        let said = desk.json(&format!(
            "new-firmware {name} --board {} --model model.kan",
            board.name
        ));
        assert_eq!(said["target"], board.target);
        let configuration = fs::read_to_string(desk.path(&format!("{name}/.cargo/config.toml")));
        let flags = configuration
            .expect("it is there")
            .contains("-Ctarget-cpu=cortex-m33");
        assert_eq!(flags, board.name == "pico2");
        let folder = desk.path(&name);
        let build = cargo(&folder)
            .args(["build", "--quiet"])
            .args(SHARED)
            .env("CARGO_TARGET_DIR", target)
            .output()
            .expect("cargo starts");
        let warned = String::from_utf8_lossy(&build.stderr);
        assert!(
            build.status.success() && warned.is_empty(),
            "{name}: {warned}"
        );
        let run = first_line(
            cargo(&folder)
                .args(["run", "--quiet"])
                .args(SHARED)
                .env("CARGO_TARGET_DIR", target)
                .env("PATH", &path),
        );
        // The HAL of the nRF51 sends a zero to begin with.
        let line = run.trim_start_matches('\0');
        let expected = match board.machine {
            Some(_) => expected(&blob),
            None => format!("probe-rs run --chip {} ", board.chip.expect("it is real")),
        };
        assert!(line.starts_with(&expected), "{name}: {line}");
        let image = target.join(board.target).join("firmware").join(&name);
        fs::remove_file(image).expect("it was built");
    }
}

#[test]
fn the_commands_that_are_printed_build_and_run_a_project() {
    let desk = Desk::new();
    let blob = Blob::random(1, false, &[1, 3], false);
    desk.file("model.kan", blob.bytes());
    let said = desk.json("new-firmware the-oven's --board mps2-an386 --model model.kan");
    let commands = said["commands"].as_array().expect("a list");
    let commands: Vec<&str> = commands
        .iter()
        .filter_map(|command| command.as_str())
        .collect();
    assert_eq!(commands.len(), 2);
    let mut shell = Command::new("sh");
    // `exec`, so that it is not the shell alone that is ended.
    let line = commands.join(" && exec ");
    shell
        .args(["-c", &line])
        .current_dir(desk.path(""))
        .env_remove("CARGO_TARGET_DIR");
    let line = first_line(&mut shell);
    assert!(line.starts_with(&expected(&blob)), "{line}");

    let full = ["folder is not empty", "the-oven's"];
    desk.fails(
        "new-firmware the-oven's --board pico --model model.kan",
        1,
        &full,
    );
    desk.fails(
        "new-firmware x --board pdp11 --model model.kan",
        2,
        &["pdp11"],
    );
    desk.fails("new-firmware x --board pico --model x.kan", 1, &["x.kan"]);
    desk.fails("new-firmware / --board pico --model model.kan", 2, &["DIR"]);
    let taken = ["DIR", "kan-core"];
    desk.fails(
        "new-firmware kan-core --board pico --model model.kan",
        2,
        &taken,
    );
}
