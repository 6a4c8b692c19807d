//! Output files: whole or not there, readable by everyone, read back bit for bit.

use std::fs;
use std::path::Path;

use kan_train_host::artifact::{
    ArtifactError, METRICS, MODEL, NETWORK, create_run_folder, read_json, write_atomic, write_json,
};
use serde::{Deserialize, Serialize};

#[track_caller]
fn says<T: std::fmt::Debug>(result: Result<T, ArtifactError>, fragments: &[&str]) {
    let message = result.expect_err("this must fail").to_string();
    assert_eq!(message.lines().count(), 1, "one line: {message:?}");
    for fragment in fragments {
        assert!(
            message.contains(fragment),
            "{message:?} does not name {fragment:?}"
        );
    }
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_is_written_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(MODEL);
    for bytes in [b"first".as_slice(), b"", &[0xA5; 100_000], b"last"] {
        write_atomic(&path, bytes).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);
        assert_eq!(entries(folder.path()), [MODEL], "no temporary file is left");
    }
}

#[test]
fn a_reader_never_sees_half_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(MODEL);
    write_atomic(&path, &[0; 200_000]).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for k in 1..40_u8 {
                write_atomic(&path, &vec![k; 200_000]).unwrap();
            }
        });
        while !writer.is_finished() {
            let bytes = fs::read(&path).unwrap();
            assert_eq!(bytes.len(), 200_000);
            assert!(bytes.iter().all(|&byte| byte == bytes[0]));
        }
    });
}

#[test]
fn what_cannot_be_written_is_named_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "kept").unwrap();
    let is_file = format!("there is no folder {}", file.display());
    says(
        write_atomic(&file.join("model.kan"), b"x"),
        &["file/model.kan: cannot write", &is_file],
    );
    says(
        write_atomic(&folder.path().join("a/b"), b"x"),
        &["a/b: cannot write", "no folder"],
    );
    says(
        write_atomic(folder.path(), b"x"),
        &["cannot write", "it is a folder"],
    );
    says(write_atomic(Path::new(""), b"x"), &["cannot write"]);
    assert_eq!(entries(folder.path()), ["file"]);
    assert_eq!(fs::read(&file).unwrap(), b"kept");
}

#[cfg(unix)]
#[test]
fn links_devices_and_permissions_are_respected() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new");
    write_atomic(&path, b"x").unwrap();
    let plain = folder.path().join("plain");
    fs::write(&plain, b"x").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(
        mode(&path),
        mode(&plain),
        "the umask decides, as for every new file"
    );

    let link = folder.path().join("link");
    symlink("plain", &link).unwrap();
    write_atomic(&link, b"through the link").unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&plain).unwrap(), b"through the link");

    write_atomic(Path::new("/dev/null"), b"x").unwrap();
    assert!(
        fs::metadata("/dev/null")
            .unwrap()
            .file_type()
            .is_char_device()
    );
}

#[test]
fn a_run_folder_is_created_or_taken() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("runs/first");
    create_run_folder(&run).unwrap();
    assert!(run.is_dir() && entries(&run).is_empty());
    fs::write(run.join(METRICS), "kept").unwrap();
    // What a writer left that was killed goes; nothing else does.
    fs::write(run.join(".kan-a1b2c3"), "half").unwrap();
    fs::write(run.join(".hidden"), "kept").unwrap();
    create_run_folder(&run).unwrap();
    assert_eq!(entries(&run), [".hidden", METRICS]);

    says(
        create_run_folder(&run.join(METRICS)),
        &["metrics.json", "it is a file"],
    );
    says(
        create_run_folder(&run.join(METRICS).join("run")),
        &["metrics.json/run: cannot create"],
    );
    says(create_run_folder(Path::new("")), &["name is empty"]);
    assert_eq!(fs::read(run.join(METRICS)).unwrap(), b"kept");
}

/// `/proc` takes no files from anybody, not even from root.
#[cfg(target_os = "linux")]
#[test]
fn an_unwritable_folder_is_named() {
    says(
        create_run_folder(Path::new("/proc/run")),
        &["/proc/run: cannot create the folder"],
    );
    says(
        create_run_folder(Path::new("/proc")),
        &["/proc: cannot write into the folder"],
    );
    says(
        write_atomic(Path::new("/proc/model.kan"), b"x"),
        &["/proc/model.kan: cannot write"],
    );
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Checkpoint {
    name: String,
    coefficients: Vec<f64>,
}

#[test]
fn json_keeps_every_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(NETWORK);
    // Bit patterns spread over all exponents and mantissas by Weyl's sequence, the finite ones.
    let mut bits = 0_u64;
    let mut coefficients = vec![0.0, -0.0, f64::MIN_POSITIVE, 5e-324, f64::MAX, 0.1 + 0.2];
    for _ in 0..20_000 {
        bits = bits.wrapping_add(0x9E37_79B9_7F4A_7C15);
        coefficients.extend(Some(f64::from_bits(bits)).filter(|value| value.is_finite()));
    }
    let written = Checkpoint {
        name: "Ünal \"1\"\n".into(),
        coefficients,
    };
    write_json(&path, &written).unwrap();
    let read: Checkpoint = read_json(&path).unwrap();
    assert_eq!(read.name, written.name);
    assert_eq!(read.coefficients.len(), written.coefficients.len());
    for (read, written) in read.coefficients.iter().zip(&written.coefficients) {
        assert_eq!(read.to_bits(), written.to_bits());
    }
}

#[test]
fn json_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(NETWORK);
    says(
        read_json::<Checkpoint>(&path),
        &["network.json: cannot read"],
    );
    says(read_json::<Checkpoint>(folder.path()), &["cannot read"]);
    for (text, fragment) in [
        ("", "line 1"),
        ("{\n\"name\": \"x\",\n\"coeff", "line 3"),
        ("{\"name\": \"x\"}", "coefficients"),
        ("{\"name\": \"x\", \"coefficients\": [null]}", "null"),
        ("{\"name\": \"x\", \"coefficients\": []} more", "trailing"),
        ("\u{0}\u{1}", "line 1"),
    ] {
        fs::write(&path, text).unwrap();
        says(
            read_json::<Checkpoint>(&path),
            &["network.json: not a valid file", fragment],
        );
    }
    let deep = "[".repeat(1_000_000);
    fs::write(&path, deep).unwrap();
    says(
        read_json::<serde_json::Value>(&path),
        &["network.json", "recursion"],
    );
}
