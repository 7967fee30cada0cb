//! Files that are whole or not there: written aside, then renamed.

use crate::CaError;
use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// What to do with a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// A key that is lost takes everything below it with it: only when told.
    Never,
    Replace,
}

pub(crate) const PUBLIC: u32 = 0o644;
/// The mode of what only its owner reads.
pub const SECRET: u32 = 0o600;
const FILE_MAX: u64 = 4 << 20;

/// `text` at `path`, whole or not at all.
pub fn write(path: &Path, text: &str, mode: u32, overwrite: Overwrite) -> Result<(), CaError> {
    let failed = |source| CaError::File { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    // What a run left that was killed: nobody else has this process id.
    let _ = fs::remove_file(&aside);
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        match overwrite {
            Overwrite::Replace => fs::rename(&aside, path),
            // Unlike a look before a rename, a link cannot lose a race.
            Overwrite::Never => fs::hard_link(&aside, path),
        }
    })();
    let _ = fs::remove_file(&aside);
    match written {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(CaError::Exists(path.to_owned())),
        other => other.map_err(failed),
    }
}

pub(crate) fn read(path: &Path, way_out: &'static str) -> Result<String, CaError> {
    let failed = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => CaError::Missing { path: path.to_owned(), way_out },
        _ => CaError::File { path: path.to_owned(), source },
    };
    if fs::metadata(path).map_err(failed)?.len() > FILE_MAX {
        return Err(failed(std::io::Error::other(format!("larger than {} MiB", FILE_MAX >> 20))));
    }
    fs::read_to_string(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_kept_unless_told_and_nothing_stays_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/x.key");
        write(&path, "one", SECRET, Overwrite::Never).unwrap();
        assert!(matches!(write(&path, "two", SECRET, Overwrite::Never), Err(CaError::Exists(_))));
        assert_eq!(read(&path, "").unwrap(), "one");
        write(&path, "three", SECRET, Overwrite::Replace).unwrap();
        assert_eq!(read(&path, "").unwrap(), "three");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(matches!(read(&folder.path().join("y"), "make it"), Err(CaError::Missing { .. })));
    }
}
