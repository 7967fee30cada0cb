//! The watcher: what is a change and what is not.

use portcullis_config::{Pace, Watched, Watcher};
use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::PathBuf,
    time::{Duration, SystemTime},
};
use tempfile::TempDir;

/// Far beyond what any change needs; only a failure waits for it.
const DEADLINE: Duration = Duration::from_secs(20);

fn pace() -> Pace {
    Pace {
        quiet: Duration::from_millis(20),
        longest: Duration::from_millis(200),
        poll: Duration::from_secs(60),
        unfinished: DEADLINE,
    }
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
    }

    fn watch(&self, names: &[&str]) -> Watcher {
        Watcher::with_pace(names.iter().map(|name| self.at(name)).collect(), pace())
    }
}

async fn fires(watcher: &mut Watcher, what: &str) {
    assert!(tokio::time::timeout(DEADLINE, watcher.changed()).await.is_ok(), "{what} is not seen");
}

#[tokio::test]
async fn a_file_that_is_written_renamed_over_or_removed_has_changed() {
    let folder = Folder::new();
    folder.write("a.toml", "1");
    let mut watcher = folder.watch(&["a.toml"]);
    folder.write("a.toml", "2");
    fires(&mut watcher, "a write in place").await;
    folder.write("a.new", "3");
    fs::rename(folder.at("a.new"), folder.at("a.toml")).unwrap();
    fires(&mut watcher, "rename and replace").await;
    fs::remove_file(folder.at("a.toml")).unwrap();
    fires(&mut watcher, "removal").await;
    folder.write("a.toml", "4");
    fires(&mut watcher, "coming back").await;
}

#[tokio::test]
async fn a_symlink_swap_is_a_change_each_time() {
    let folder = Folder::new();
    for version in ["v1", "v2", "v3"] {
        fs::create_dir(folder.at(version)).unwrap();
        folder.write(&format!("{version}/a.toml"), version);
    }
    symlink("v1", folder.at("..data")).unwrap();
    symlink("..data/a.toml", folder.at("a.toml")).unwrap();
    let mut watcher = folder.watch(&["a.toml"]);
    for version in ["v2", "v3"] {
        symlink(version, folder.at("..data_tmp")).unwrap();
        fs::rename(folder.at("..data_tmp"), folder.at("..data")).unwrap();
        fires(&mut watcher, version).await;
    }
    folder.write("v3/a.toml", "in the folder that the link leads to now");
    fires(&mut watcher, "a write behind the link").await;
}

#[tokio::test]
async fn a_swapped_folder_is_a_change() {
    let folder = Folder::new();
    for version in ["r1", "r2"] {
        fs::create_dir(folder.at(version)).unwrap();
        folder.write(&format!("{version}/a.toml"), version);
    }
    symlink("r1", folder.at("conf")).unwrap();
    let mut watcher = folder.watch(&["conf/a.toml"]);
    symlink("r2", folder.at("next")).unwrap();
    fs::rename(folder.at("next"), folder.at("conf")).unwrap();
    fires(&mut watcher, "another release").await;
}

#[tokio::test]
async fn a_new_file_counts_when_it_matches_a_pattern() {
    let folder = Folder::new();
    fs::create_dir_all(folder.at("conf.d/team")).unwrap();
    let mut watcher = folder.watch(&["conf.d/*.toml", "conf.d/*/*.toml"]);
    folder.write("conf.d/a.toml", "1");
    fires(&mut watcher, "a new file").await;
    folder.write("conf.d/team/b.toml", "1");
    fires(&mut watcher, "a new file one folder down").await;
    fs::remove_file(folder.at("conf.d/a.toml")).unwrap();
    fires(&mut watcher, "a file that went away").await;
}

#[tokio::test]
async fn noise_is_no_change() {
    let folder = Folder::new();
    folder.write("a.toml", "1");
    let mut watcher = folder.watch(&["a.toml", "*.toml"]);
    folder.write("a.toml", "1");
    folder.write("notes", "x");
    folder.write(".#a.toml", "an editor's lock");
    fs::read(folder.at("a.toml")).unwrap();
    folder.write("a.new", "1");
    fs::rename(folder.at("a.new"), folder.at("a.toml")).unwrap();
    let looked = tokio::time::timeout(Duration::from_millis(700), watcher.changed()).await;
    assert!(looked.is_err(), "fired without a change");
    folder.write("a.toml", "2");
    fires(&mut watcher, "a change after the noise").await;
}

#[tokio::test]
async fn another_set_of_files_keeps_what_is_known_of_the_old_ones() {
    let folder = Folder::new();
    folder.write("a.toml", "1");
    folder.write("b.toml", "1");
    let mut watcher = folder.watch(&["a.toml"]);
    folder.write("a.toml", "changed before the set was replaced");
    watcher.watch(Watched { files: vec![folder.at("a.toml"), folder.at("b.toml")], read: SystemTime::now() });
    fires(&mut watcher, "a change before the new set").await;
    folder.write("b.toml", "2");
    fires(&mut watcher, "a file of the new set").await;
    watcher.watch(Watched { files: vec![folder.at("a.toml")], read: SystemTime::now() });
    folder.write("b.toml", "3");
    assert!(tokio::time::timeout(Duration::from_millis(500), watcher.changed()).await.is_err(), "no longer watched");
}

#[tokio::test]
async fn a_file_that_was_written_after_it_was_found_missing_and_before_it_is_watched_has_changed() {
    let folder = Folder::new();
    folder.write("a.toml", "1");
    let mut watcher = folder.watch(&["a.toml"]);
    let read = SystemTime::now();
    folder.write("list.txt", "written while the reader told that it is not there");
    watcher.watch(Watched { files: vec![folder.at("a.toml"), folder.at("list.txt")], read });
    fires(&mut watcher, "what came in between").await;

    // Before anything was watched at all, as when a process starts.
    let read = SystemTime::now();
    folder.write("a.toml", "2");
    let mut watcher = Watcher::of(Watched { files: vec![folder.at("a.toml")], read });
    fires(&mut watcher, "what came while the process started").await;
    let files = vec![folder.at("*.txt"), folder.at("list.txt")];
    folder.write("more.txt", "a match that the reader has not seen");
    let mut watcher = Watcher::of(Watched { files, read: SystemTime::now() + Duration::from_secs(1) });
    fires(&mut watcher, "another match").await;

    let mut watcher = folder.watch(&["a.toml"]);
    let read_long_after = SystemTime::now() + Duration::from_secs(1);
    watcher.watch(Watched { files: vec![folder.at("a.toml"), folder.at("list.txt")], read: read_long_after });
    assert!(tokio::time::timeout(Duration::from_millis(300), watcher.changed()).await.is_err(), "it was read as it is");
}

#[tokio::test]
async fn a_wait_that_is_given_up_loses_nothing() {
    let folder = Folder::new();
    folder.write("a.toml", "1");
    let mut watcher = folder.watch(&["a.toml"]);
    folder.write("a.toml", "2");
    for _ in 0..40 {
        if tokio::time::timeout(Duration::from_millis(7), watcher.changed()).await.is_ok() {
            return;
        }
    }
    fires(&mut watcher, "a change that many waits were interrupted over").await;
}

#[tokio::test]
async fn without_events_the_poll_finds_changes() {
    let folder = Folder::new();
    folder.write("a.toml", "1");
    let poll = Pace { poll: Duration::from_millis(20), ..pace() };
    let mut watcher = Watcher::polling(vec![folder.at("a.toml"), folder.at("b*.toml")], poll);
    // The same length, within the same tick of the file system's clock.
    folder.write("a.toml", "2");
    fires(&mut watcher, "a write").await;
    folder.write("b1.toml", "");
    fires(&mut watcher, "a match").await;
}

#[tokio::test]
async fn a_file_that_is_being_written_is_waited_for() {
    let folder = Folder::new();
    folder.write("a.zone", "a whole zone");
    let mut watcher = folder.watch(&["a.zone"]);
    // Truncated now, and for longer than any burst of events lasts, there is nothing in it.
    let mut writer = fs::File::create(folder.at("a.zone")).unwrap();
    let early = tokio::time::timeout(pace().longest * 3, watcher.changed()).await;
    assert!(early.is_err(), "half a file is no change");
    writer.write_all(b"half").unwrap();
    let early = tokio::time::timeout(pace().longest * 3, watcher.changed()).await;
    assert!(early.is_err(), "half a file is no change");
    writer.write_all(b" and the rest").unwrap();
    drop(writer);
    fires(&mut watcher, "the whole file").await;
}

#[tokio::test]
async fn a_file_that_is_never_closed_is_read_in_the_end_and_others_do_not_wait_for_strangers() {
    let folder = Folder::new();
    folder.write("a.toml", "1");
    let mut stranger = fs::File::create(folder.at("log")).unwrap();
    stranger.write_all(b"1").unwrap();
    let mut watcher = folder.watch(&["a.toml"]);
    stranger.write_all(b"2").unwrap();
    folder.write("a.toml", "2");
    fires(&mut watcher, "a change beside a file that is written to").await;
    let soon = Pace { unfinished: Duration::from_millis(300), ..pace() };
    let mut watcher = Watcher::with_pace(vec![folder.at("a.toml")], soon);
    let mut writer = fs::File::create(folder.at("a.toml")).unwrap();
    writer.write_all(b"3").unwrap();
    fires(&mut watcher, "a file that is never closed").await;
}
