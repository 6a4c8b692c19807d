//! Output files that are whole or not there at all, and the run folder that holds them.
//!
//! A file is written under a temporary name in its own folder, flushed to the disk and renamed: an
//! interrupted run leaves the file of before, a reader never sees half of one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;

/// The trained network with everything needed to resume, in a run folder.
pub const NETWORK: &str = "network.json";
/// The tables for the device, in a run folder.
pub const MODEL: &str = "model.kan";
/// What `train` measured, in a run folder.
pub const METRICS: &str = "metrics.json";

/// How the names of temporary files begin.
const TEMPORARY: &str = ".kan-";

/// Why a file or folder could not be written or read. Each prints as one line.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation of the fields
pub enum ArtifactError {
    /// Writing failed; what was there before still is.
    #[error("{}: cannot write: {cause}", shown(.path))]
    Write { path: PathBuf, cause: io::Error },
    /// The path of a file to write is a folder.
    #[error("{}: cannot write: it is a folder", shown(.path))]
    IsFolder { path: PathBuf },
    /// The folder of a file to write is missing.
    #[error("{}: cannot write: there is no folder {}", shown(.path), shown(.folder))]
    NoFolder { path: PathBuf, folder: PathBuf },
    /// The path of a run folder is a file.
    #[error("{}: cannot create the folder: it is a file", shown(.path))]
    NotAFolder { path: PathBuf },
    /// Creating the run folder failed.
    #[error("{}: cannot create the folder: {cause}", shown(.path))]
    CreateFolder { path: PathBuf, cause: io::Error },
    /// The run folder is there, but no file can be created in it.
    #[error("{}: cannot write into the folder: {cause}", shown(.path))]
    WriteInto { path: PathBuf, cause: io::Error },
    /// Reading failed.
    #[error("{}: cannot read: {cause}", shown(.path))]
    Read { path: PathBuf, cause: io::Error },
    /// A value that JSON cannot express, such as a map without string keys.
    #[error("{}: cannot be written as JSON: {cause}", shown(.path))]
    Serialize {
        path: PathBuf,
        cause: serde_json::Error,
    },
    /// Not JSON, or not what was expected.
    #[error("{}: not a valid file of this kind: {cause}", shown(.path))]
    Deserialize {
        path: PathBuf,
        cause: serde_json::Error,
    },
}

/// Writes a whole file, or leaves what was there; the permissions are those of any new file.
///
/// A symbolic link is followed. A device or a pipe, which nothing can replace, is written to.
///
/// # Errors
/// [`ArtifactError`] with the path, if the folder is missing or anything on the way to the disk
/// fails.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), ArtifactError> {
    let failed = |cause| ArtifactError::Write {
        path: path.to_path_buf(),
        cause,
    };
    let target = match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            return Err(ArtifactError::IsFolder {
                path: path.to_path_buf(),
            });
        }
        Ok(found) if found.is_file() => fs::canonicalize(path).map_err(failed)?,
        Ok(_) => {
            let mut device = OpenOptions::new().write(true).open(path).map_err(failed)?;
            return device
                .write_all(bytes)
                .and_then(|()| device.flush())
                .map_err(failed);
        }
        Err(_) => path.to_path_buf(),
    };
    let folder = folder_of(&target);
    if !folder.is_dir() {
        let folder = folder.to_path_buf();
        return Err(ArtifactError::NoFolder {
            path: path.to_path_buf(),
            folder,
        });
    }
    let mut file = temporary(folder).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&target).map_err(|fault| failed(fault.error))?;
    // The name too should survive a power cut. Not every file system can do that: no error then.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Creates a run folder and the folders above it, or takes one that is there, and makes sure that
/// files can be written into it: to be called before hours of work depend on it.
///
/// Temporary files that a killed writer has left there are removed.
///
/// # Errors
/// [`ArtifactError`] with the path, if it is a file or cannot be created or written into.
pub fn create_run_folder(path: &Path) -> Result<(), ArtifactError> {
    let owned = || path.to_path_buf();
    if fs::metadata(path).is_ok_and(|found| !found.is_dir()) {
        return Err(ArtifactError::NotAFolder { path: owned() });
    }
    if path.as_os_str().is_empty() {
        let cause = io::Error::new(io::ErrorKind::InvalidInput, "its name is empty");
        return Err(ArtifactError::CreateFolder {
            path: owned(),
            cause,
        });
    }
    fs::create_dir_all(path).map_err(|cause| ArtifactError::CreateFolder {
        path: owned(),
        cause,
    })?;
    temporary(path).map_err(|cause| ArtifactError::WriteInto {
        path: owned(),
        cause,
    })?;
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let stale = entry.file_name().to_string_lossy().starts_with(TEMPORARY);
        if stale && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            // One that stays is a blemish, no failure.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Writes a value as indented JSON, atomically. Finite `f64` values are read back bit for bit; JSON
/// has no others, they become `null`.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), ArtifactError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|cause| ArtifactError::Serialize {
        path: path.to_path_buf(),
        cause,
    })?;
    bytes.push(b'\n');
    write_atomic(path, &bytes)
}

/// Reads what [`write_json`] wrote.
///
/// # Errors
/// [`ArtifactError`] with the path, and with line and column where the JSON is at fault.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ArtifactError> {
    let bytes = fs::read(path).map_err(|cause| ArtifactError::Read {
        path: path.to_path_buf(),
        cause,
    })?;
    serde_json::from_slice(&bytes).map_err(|cause| ArtifactError::Deserialize {
        path: path.to_path_buf(),
        cause,
    })
}

/// A file that vanishes unless it is renamed, with the permissions of a file created in the
/// ordinary way; tempfile alone would keep it from everybody else.
fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask
    builder.tempfile_in(folder)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A path on one line.
fn shown(path: &Path) -> String {
    crate::dataset::one_line(&path.to_string_lossy())
}
