//! A control group with a limit on memory, for one process of a test. Needs root and a machine that lets groups be made.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Removed when dropped; whoever was in it must have ended.
pub(crate) struct MemoryGroup {
    folder: PathBuf,
    files: Files,
}

struct Files {
    limit: &'static str,
    usage: &'static str,
}

const V1: Files = Files { limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes" };
const V2: Files = Files { limit: "memory.max", usage: "memory.current" };

impl MemoryGroup {
    /// One without a limit yet. `None`, said aloud: this machine does not let us.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let name = format!("portcullis-test-{name}-{}", std::process::id());
        let root = Path::new("/sys/fs/cgroup");
        for (parent, files) in [(root.join("memory"), V1), (root.to_owned(), V2)] {
            if !parent.join("cgroup.procs").exists() {
                continue;
            }
            let folder = parent.join(&name);
            match fs::create_dir(&folder) {
                Ok(()) if folder.join(files.limit).exists() => return Some(Self { folder, files }),
                Ok(()) => {
                    let _ = fs::remove_dir(&folder);
                }
                Err(_) => {}
            }
        }
        eprintln!("NOT CHECKED: no control group with a limit on memory can be made here");
        None
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn limit(&self, bytes: u64) -> io::Result<()> {
        fs::write(self.folder.join(self.files.limit), bytes.to_string())
    }

    /// Octets that it holds now, file cache included.
    pub(crate) fn usage(&self) -> u64 {
        fs::read_to_string(self.folder.join(self.files.usage)).unwrap().trim_end().parse().unwrap()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // The kernel takes a moment to let go of a process that was killed.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
