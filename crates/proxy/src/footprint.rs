//! Gives back pages of the program's own files that only its start, or a reload, touched.
//!
//! Both run through megabytes of text (schema, lint, compile) that serving never touches. Measured of an idle sidecar: 24 MiB
//! of files resident without this, of which 1 MiB is used at rest and 5 MiB under load.

use std::{
    fs,
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

/// Addresses of parts of files that were mapped for good when the program began.
static MAPPED: OnceLock<Vec<(usize, usize)>> = OnceLock::new();
/// Something began of late, and is not at rest yet.
static BEGAN: AtomicBool = AtomicBool::new(false);
/// Within this identities are taken, names are resolved, and the first probes are over.
const SETTLING: Duration = Duration::from_secs(5);
/// How long what a burst touched stays. Touching again what is used takes a busy core some hundred microseconds of this.
const REST: Duration = Duration::from_secs(30);

/// The allocator asks for pages of 2 MiB. Without them an idle process holds 9 MiB less, and a request costs the same (44 us
/// against 44 us, interleaved). A kernel that cannot be told so goes on as before.
extern "C" fn no_huge_pages() {
    let _ = nix::sys::prctl::set_thp_disable(true);
}

/// Run by the loader before anything allocates: in `main` two such pages are there already, 3 MiB more than is used of them.
// SAFETY: the section is a list of functions without arguments that the C library calls, in the order of their numbers, once it is
// ready itself and before `main`; this one makes a single system call, and neither allocates nor needs what Rust sets up for `main`.
#[allow(unsafe_code)]
#[used]
#[unsafe(link_section = ".init_array.00099")]
static FIRST: extern "C" fn() = no_huge_pages;

/// To be called first in `main`, while there is one thread: what is mapped now belongs to the program and its own libraries, and
/// stays to its end.
pub fn note_start() {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let _ = MAPPED.set(of_files(&smaps));
}

/// What a start or a reload touched; the kernel maps again what is touched from now on.
pub fn give_back() {
    forget_all();
    BEGAN.store(true, Relaxed);
}

/// What came after a start until all was at rest, and what bursts touched. Until the future is dropped.
pub async fn give_back_now_and_then() {
    loop {
        let mut rested = Duration::ZERO;
        // A start or a reload may end in the midst of a rest, and is not to wait for the end of it.
        while rested < REST && !BEGAN.swap(false, Relaxed) {
            tokio::time::sleep(SETTLING).await;
            rested += SETTLING;
        }
        if rested < REST {
            tokio::time::sleep(SETTLING).await;
        }
        forget_all();
    }
}

fn forget_all() {
    for (from, to) in MAPPED.get().into_iter().flatten() {
        forget(*from, *to);
    }
}

#[allow(unsafe_code)]
fn forget(from: usize, to: usize) {
    // SAFETY: the range was mapped when the process began, privately and without the right to write, of the program's file or of a
    // library that it was linked with: neither is ever unmapped or written. No page of it was a copy (`Anonymous: 0`), so each
    // one is the file's, and the kernel brings the very same octets back at the next access.
    unsafe {
        libc::madvise(std::ptr::with_exposed_provenance_mut(from), to.saturating_sub(from), libc::MADV_DONTNEED);
    }
}

/// Mappings of `smaps` (proc(5)) that hold nothing but a file's own pages, and never will.
fn of_files(smaps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        if let Some(mapping) = mapping(line) {
            candidate = mapping;
        } else if let Some(kib) = line.strip_prefix("Anonymous:")
            && kib.trim() == "0 kB"
        {
            found.extend(candidate.take());
        }
    }
    found
}

/// `None`: the line begins no mapping. `Some(None)`: one that may be written, is shared, or is of no file.
fn mapping(line: &str) -> Option<Option<(usize, usize)>> {
    let mut words = line.split_ascii_whitespace();
    let (from, to) = words.next()?.split_once('-')?;
    let (from, to) = (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
    let rights = words.next()?;
    let is_file = words.nth(3).is_some_and(|path| Path::new(path).is_absolute());
    Some((is_file && matches!(rights, "r--p" | "r-xp")).then_some((from, to)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_a_files_and_never_written_is_forgotten() {
        let mapping =
            |head: &str, anonymous: &str| format!("{head}\nRss: 8 kB\nAnonymous:    {anonymous} kB\nVmFlags: rd mr\n");
        for (head, anonymous, expected) in [
            ("1000-3000 r-xp 00000000 fe:00 9  /usr/bin/x", "0", true),
            ("1000-3000 r--p 00000000 fe:00 9  /usr/bin/x", "0", true),
            // Relocated by the loader: gone if it were forgotten.
            ("1000-3000 r--p 00000000 fe:00 9  /usr/bin/x", "4", false),
            ("1000-3000 rw-p 00000000 fe:00 9  /usr/bin/x", "0", false),
            ("1000-3000 r--s 00000000 fe:00 9  /usr/bin/x", "0", false),
            ("1000-3000 r-xp 00000000 00:00 0  [vdso]", "0", false),
            ("1000-3000 r--p 00000000 00:00 0", "0", false),
        ] {
            let found = of_files(&mapping(head, anonymous));
            assert_eq!(found, if expected { vec![(0x1000, 0x3000)] } else { Vec::new() }, "{head} {anonymous}");
        }
    }

    #[test]
    fn the_program_runs_on_after_its_pages_were_forgotten() {
        note_start();
        let resident = || {
            let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
            let exe = fs::read_link("/proc/self/exe").unwrap();
            let mut of_exe = false;
            let mut sum = 0_u64;
            for line in smaps.lines() {
                if super::mapping(line).is_some() {
                    of_exe = line.contains("r-xp") && line.ends_with(exe.to_str().unwrap());
                } else if let Some(kib) = line.strip_prefix("Rss:").filter(|_| of_exe) {
                    sum += kib.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
                }
            }
            sum
        };
        assert!(!MAPPED.get().unwrap().is_empty());
        // Other tests of this process may touch text meanwhile: of several times one is quiet enough.
        let (before, after) = (0..20)
            .map(|_| {
                (resident(), {
                    give_back();
                    resident()
                })
            })
            .max_by_key(|(b, a)| b.saturating_sub(*a))
            .unwrap();
        assert!(after < before, "{before} KiB before, {after} after");
    }
}
