//! Reads how much memory and CPU time are used, and how much there is: from `/proc`, and from control groups of both
//! versions (cgroups(7)). Decides nothing.

use crate::{CpuReading, MemoryLimit, MemoryReading};
use std::{
    io,
    path::{Component, Path, PathBuf},
    time::Duration,
};

/// Where to read. Tests have folders of their own.
#[derive(Debug, Clone)]
pub struct OverloadSources {
    /// `/proc/self`
    process: PathBuf,
    /// `/proc/meminfo`
    machine_memory: PathBuf,
    /// `/sys/fs/cgroup`
    groups: PathBuf,
    /// Threads that serve, but no more than there are CPUs that the process may run on.
    threads: f64,
    page_bytes: u64,
    ticks_per_second: u64,
}

/// Why there is no reading.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{} cannot be read: {error}", .path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{} does not say what is expected there", .path.display())]
    Garbled { path: PathBuf },
}

/// Control groups inside each other; the kernel's own default limit is far above what anybody uses.
const DEPTH_MAX: usize = 32;

impl OverloadSources {
    /// Of this process; `threads` of it serve.
    pub fn system(threads: usize) -> Self {
        Self::at(Path::new("/proc"), Path::new("/sys/fs/cgroup"), threads)
    }

    /// In other folders.
    pub fn at(proc: &Path, groups: &Path, threads: usize) -> Self {
        let process = proc.join("self");
        // Without it, more CPU time seems possible than is: nothing is shed too early.
        let cpus = read(&process.join("status")).ok().and_then(|status| allowed_cpus(&status));
        let threads = cpus.map_or(threads, |cpus| cpus.min(threads)).max(1);
        Self {
            process,
            machine_memory: proc.join("meminfo"),
            groups: groups.to_owned(),
            threads: threads as f64,
            page_bytes: rustix::param::page_size() as u64,
            ticks_per_second: rustix::param::clock_ticks_per_second().max(1),
        }
    }

    /// `None`: there is nothing to measure it against.
    pub fn memory(&self, against: MemoryLimit) -> Result<Option<MemoryReading>, ReadError> {
        if let Some(group) = self.group_memory()? {
            return Ok(Some(group));
        }
        match against {
            MemoryLimit::Cgroup => Ok(None),
            MemoryLimit::CgroupOrMachine => self.machine_memory().map(Some),
        }
    }

    pub fn cpu(&self) -> Result<CpuReading, ReadError> {
        let path = self.process.join("stat");
        let stat = read(&path)?;
        let garbled = || ReadError::Garbled { path: path.clone() };
        // proc_pid_stat(5): the name may hold spaces and parentheses; utime and stime are fields 14 and 15, and the first
        // after the name is the third.
        let (_, fields) = stat.rsplit_once(')').ok_or_else(garbled)?;
        let mut times = fields.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
        let (Some(Ok(user)), Some(Ok(system))) = (times.next(), times.next()) else { return Err(garbled()) };
        let ticks = user.saturating_add(system);
        let spent = Duration::from_secs_f64(ticks as f64 / self.ticks_per_second as f64);
        Ok(CpuReading { spent, cores: self.quota()?.map_or(self.threads, |quota| quota.min(self.threads)) })
    }

    /// The group that is closest to its limit: any of those above may be the one that the kernel kills in.
    fn group_memory(&self) -> Result<Option<MemoryReading>, ReadError> {
        let mut tightest: Option<MemoryReading> = None;
        for (group, files) in self.groups(&MEMORY_V2, &MEMORY_V1)? {
            let Some(limit_bytes) = limit(&group.join(files.limit))? else { continue };
            let current = number(&group.join(files.usage))?;
            // File cache that nobody uses is given up before anything is killed.
            let cache = counter(&group.join("memory.stat"), files.idle_cache)?;
            let reading = MemoryReading { used_bytes: current.saturating_sub(cache), limit_bytes };
            let share = |reading: &MemoryReading| reading.used_bytes as f64 / reading.limit_bytes.max(1) as f64;
            if tightest.as_ref().is_none_or(|tightest| share(&reading) > share(tightest)) {
                tightest = Some(reading);
            }
        }
        Ok(tightest)
    }

    fn machine_memory(&self) -> Result<MemoryReading, ReadError> {
        let path = self.process.join("statm");
        let resident = read(&path)?.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
        let resident = resident.ok_or(ReadError::Garbled { path })?;
        let meminfo = read(&self.machine_memory)?;
        let total =
            meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
        let kib: u64 = total.ok_or_else(|| ReadError::Garbled { path: self.machine_memory.clone() })?;
        let used_bytes = resident.saturating_mul(self.page_bytes);
        Ok(MemoryReading { used_bytes, limit_bytes: kib.saturating_mul(1024) })
    }

    /// CPUs' worth of time that the control groups allow.
    fn quota(&self) -> Result<Option<f64>, ReadError> {
        let mut least: Option<f64> = None;
        for (group, read) in self.groups(&(quota_v2 as ReadQuota), &(quota_v1 as ReadQuota))? {
            if let Some(quota) = read(&group)? {
                least = Some(least.map_or(quota, |least| least.min(quota)));
            }
        }
        Ok(least)
    }

    /// The folders of our control groups and of all above them, each with what belongs to its version. Machines that have
    /// both versions at once keep a controller in one of them, so that folders of the other do not have its files.
    fn groups<'a, T: Versioned>(&self, v2: &'a T, v1: &'a T) -> Result<Vec<(PathBuf, &'a T)>, ReadError> {
        let Some(list) = read_if_there(&self.process.join("cgroup"))? else { return Ok(Vec::new()) };
        let mut groups = Vec::new();
        for line in list.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(own)) = (fields.next(), fields.next()) else { continue };
            if controllers.is_empty() {
                groups.extend(self.ancestry(&self.groups, own).map(|folder| (folder, v2)));
            } else if controllers.split(',').any(|name| name == T::CONTROLLER) {
                let root = self.groups.join(T::CONTROLLER);
                groups.extend(self.ancestry(&root, own).map(|folder| (folder, v1)));
            }
        }
        Ok(groups)
    }

    /// `root` and each folder from there to `own`. What is outside of what our namespace shows ("/..", seen from a
    /// container in somebody else's group) is left out.
    fn ancestry(&self, root: &Path, own: &str) -> impl Iterator<Item = PathBuf> {
        let mut folder = root.to_owned();
        let names = Path::new(own).components().filter(|part| !matches!(part, Component::RootDir | Component::CurDir));
        let names = names.map_while(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir | Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        });
        let names: Vec<_> = names.take(DEPTH_MAX).collect();
        std::iter::once(folder.clone()).chain(names.into_iter().map(move |name| {
            folder.push(name);
            folder.clone()
        }))
    }
}

/// What is read of a controller's group, which differs between the versions.
trait Versioned {
    /// Its name in `/proc/self/cgroup`, and the usual name of the folder where version 1 mounts it.
    const CONTROLLER: &str;
}

/// Names of files and of a line.
#[derive(Debug)]
struct MemoryFiles {
    limit: &'static str,
    usage: &'static str,
    /// In `memory.stat`, with all groups inside.
    idle_cache: &'static str,
}

const MEMORY_V2: MemoryFiles =
    MemoryFiles { limit: "memory.max", usage: "memory.current", idle_cache: "inactive_file" };
const MEMORY_V1: MemoryFiles =
    MemoryFiles { limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes", idle_cache: "total_inactive_file" };
/// Version 1 says "no limit" with the largest number of whole pages; no machine has a part of that.
const UNLIMITED: u64 = 1 << 60;

impl Versioned for MemoryFiles {
    const CONTROLLER: &str = "memory";
}

/// CPUs' worth of time that one group allows; `None`: all.
type ReadQuota = fn(&Path) -> Result<Option<f64>, ReadError>;

impl Versioned for ReadQuota {
    const CONTROLLER: &str = "cpu";
}

fn quota_v2(group: &Path) -> Result<Option<f64>, ReadError> {
    let path = group.join("cpu.max");
    let Some(text) = read_if_there(&path)? else { return Ok(None) };
    match text.trim_end().split_once(' ') {
        Some(("max", _)) => Ok(None),
        Some((quota, period)) => quota_of(quota, period, path),
        None => Err(ReadError::Garbled { path }),
    }
}

fn quota_v1(group: &Path) -> Result<Option<f64>, ReadError> {
    let path = group.join("cpu.cfs_quota_us");
    match read_if_there(&path)?.as_deref().map(str::trim_end) {
        None | Some("-1") => Ok(None),
        Some(quota) => quota_of(quota, read(&group.join("cpu.cfs_period_us"))?.trim_end(), path),
    }
}

fn quota_of(quota: &str, period: &str, path: PathBuf) -> Result<Option<f64>, ReadError> {
    let (Ok(quota), Ok(period)) = (quota.parse::<f64>(), period.parse::<f64>()) else {
        return Err(ReadError::Garbled { path });
    };
    Ok((quota > 0.0 && period > 0.0).then_some(quota / period))
}

/// How many CPUs `Cpus_allowed_list: 0-3,8` speaks of.
fn allowed_cpus(status: &str) -> Option<usize> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    list.trim().split(',').try_fold(0_usize, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// `None`: "max", or no such limit in this group (the root has none).
fn limit(path: &Path) -> Result<Option<u64>, ReadError> {
    match read_if_there(path)?.as_deref().map(str::trim_end) {
        None | Some("max") => Ok(None),
        Some(text) => match text.parse() {
            Ok(bytes) => Ok(Some(bytes).filter(|bytes| *bytes < UNLIMITED)),
            Err(_) => Err(ReadError::Garbled { path: path.to_owned() }),
        },
    }
}

fn number(path: &Path) -> Result<u64, ReadError> {
    read(path)?.trim_end().parse().map_err(|_| ReadError::Garbled { path: path.to_owned() })
}

/// The number behind a name, one to a line.
fn counter(path: &Path, name: &str) -> Result<u64, ReadError> {
    let stat = read(path)?;
    let bytes = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    bytes.ok_or_else(|| ReadError::Garbled { path: path.to_owned() })
}

fn read(path: &Path) -> Result<String, ReadError> {
    std::fs::read_to_string(path).map_err(|error| ReadError::Io { path: path.to_owned(), error })
}

fn read_if_there(path: &Path) -> Result<Option<String>, ReadError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ReadError::Io { path: path.to_owned(), error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files in a folder, with `proc/` and `cgroup/`.
    fn sources(files: &[(&str, &str)], threads: usize) -> (tempfile::TempDir, OverloadSources) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let sources = OverloadSources::at(&folder.path().join("proc"), &folder.path().join("cgroup"), threads);
        (folder, sources)
    }

    const MACHINE: [(&str, &str); 2] = [
        ("proc/meminfo", "MemTotal:        1000 kB\nMemFree:  10 kB\n"),
        ("proc/self/statm", "765 25 396 5 0 123 0\n"),
    ];

    /// Used and limit in bytes, of a cgroup or the machine.
    #[track_caller]
    fn memory(name: &str, files: &[(&str, &str)], against: MemoryLimit, expected: Option<(u64, u64)>) {
        let files: Vec<_> = MACHINE.iter().chain(files).copied().collect();
        let (_folder, sources) = sources(&files, 4);
        let reading = sources.memory(against).unwrap().map(|reading| (reading.used_bytes, reading.limit_bytes));
        assert_eq!(reading, expected, "{name}");
    }

    #[test]
    fn memory_is_that_of_the_tightest_group_or_of_the_machine() {
        let page = rustix::param::page_size() as u64;
        let machine = Some((25 * page, 1_024_000));
        let own = ("proc/self/cgroup", "0::/pod/box\n");
        let inner = [
            ("cgroup/pod/box/memory.max", "1000\n"),
            ("cgroup/pod/box/memory.current", "700\n"),
            ("cgroup/pod/box/memory.stat", "anon 1\ninactive_file 200\nactive_file 3\n"),
        ];
        let outer = |current| {
            [
                ("cgroup/pod/memory.max", "2000\n"),
                ("cgroup/pod/memory.current", current),
                ("cgroup/pod/memory.stat", "inactive_file 0\n"),
            ]
        };
        let unlimited = [("cgroup/pod/box/memory.max", "max\n")];
        let (group, either) = (MemoryLimit::Cgroup, MemoryLimit::CgroupOrMachine);
        let with = |more: &[(&'static str, &'static str)]| [&[own], more].concat();
        memory("its own", &with(&inner), group, Some((500, 1000)));
        memory("its own, whichever is meant", &with(&inner), either, Some((500, 1000)));
        memory("a tighter one above", &with(&[inner, outer("1900\n")].concat()), group, Some((1900, 2000)));
        memory("a wider one above", &with(&[inner, outer("900\n")].concat()), group, Some((500, 1000)));
        memory("no limit", &with(&unlimited), group, None);
        memory("no limit, so the machine's", &with(&unlimited), either, machine);
        let first = ("proc/self/cgroup", "9:name=systemd:/\n4:memory:/pod\n2:cpu,cpuacct:/other\n0::/\n");
        let files = |limit| {
            [
                first,
                ("cgroup/memory/pod/memory.limit_in_bytes", limit),
                ("cgroup/memory/pod/memory.usage_in_bytes", "700\n"),
                ("cgroup/memory/pod/memory.stat", "inactive_file 1\ntotal_inactive_file 50\n"),
            ]
        };
        memory("version 1", &files("1000\n"), group, Some((650, 1000)));
        memory("version 1 without a limit", &files("9223372036854771712\n"), either, machine);
        memory("version 1, another's folder", &[("proc/self/cgroup", "4:memory:/pod\n")], either, machine);
        let seen_from_inside = [
            ("proc/self/cgroup", "4:memory:/docker/abc\n"),
            ("cgroup/memory/memory.limit_in_bytes", "10\n"),
            ("cgroup/memory/memory.usage_in_bytes", "7\n"),
            ("cgroup/memory/memory.stat", "total_inactive_file 2\n"),
        ];
        memory("version 1 in a container", &seen_from_inside, group, Some((5, 10)));
        memory("no groups", &[], either, machine);
        memory("no groups, no limit", &[], group, None);
        let root = [
            ("cgroup/memory.max", "64\n"),
            ("cgroup/memory.current", "9\n"),
            ("cgroup/memory.stat", "inactive_file 1\n"),
        ];
        for own in ["0::/\n", "0::/../other\n", "1:name=systemd:/x\n0::/\n"] {
            memory(own, &[&[("proc/self/cgroup", own)], &root[..]].concat(), group, Some((8, 64)));
        }
    }

    const STAT: &str =
        "7 (a) b (c) R 1 7 1 0 -1 4194304 100 0 0 0 150 50 9 9 20 0 5 0 2468 3133440 390 18446744073709551615";

    /// CPUs that may be used.
    #[track_caller]
    fn cores(threads: usize, status: &str, quota: &[(&str, &str)], expected: f64) {
        let groups = ("proc/self/cgroup", "2:cpu,cpuacct:/old\n0::/pod/box\n");
        let files = [("proc/self/stat", STAT), groups, ("proc/self/status", status)];
        let (_folder, sources) = sources(&[&files, quota].concat(), threads);
        let reading = sources.cpu().unwrap();
        assert_eq!(reading.cores, expected, "{threads} threads, {status}, {quota:?}");
        assert_eq!(reading.spent.as_secs_f64(), 200.0 / rustix::param::clock_ticks_per_second() as f64);
    }

    #[test]
    fn cpu_time_is_what_threads_affinity_and_groups_allow() {
        let (own, outer) = ("cgroup/pod/box/cpu.max", "cgroup/cpu.max");
        cores(4, "", &[], 4.0);
        cores(4, "Name:\tx\nCpus_allowed_list:\t0-1,5\n", &[], 3.0);
        cores(2, "Cpus_allowed_list:\t0-63\n", &[], 2.0);
        cores(2, "Cpus_allowed_list:\tgarbage\n", &[], 2.0);
        cores(4, "", &[(own, "max 100000\n")], 4.0);
        cores(4, "", &[(own, "250000 100000\n")], 2.5);
        cores(4, "", &[(own, "50000 100000\n")], 0.5);
        cores(2, "", &[(own, "400000 100000\n")], 2.0);
        cores(4, "", &[(own, "max 100000\n"), (outer, "100000 100000\n")], 1.0);
        cores(4, "", &[(own, "100000 100000\n"), (outer, "300000 100000\n")], 1.0);
        let (quota, period) = ("cgroup/cpu/old/cpu.cfs_quota_us", ("cgroup/cpu/old/cpu.cfs_period_us", "100000\n"));
        cores(4, "", &[(quota, "-1\n"), period], 4.0);
        cores(4, "", &[(quota, "150000\n"), period], 1.5);
    }

    #[test]
    fn what_is_not_there_or_not_understood_is_named() {
        let own = ("proc/self/cgroup", "0::/\n");
        for (files, part) in [
            (vec![], "proc/self/statm cannot be read"),
            (vec![own, ("cgroup/memory.max", "many\n")], "cgroup/memory.max does not say"),
            (vec![own, ("cgroup/memory.max", "5\n")], "memory.current cannot be read"),
            (
                vec![own, ("cgroup/memory.max", "5\n"), ("cgroup/memory.current", "3"), ("cgroup/memory.stat", "x")],
                "memory.stat does not",
            ),
            (vec![("proc/self/statm", "1 x")], "statm does not"),
            (vec![MACHINE[1], ("proc/meminfo", "MemFree: 1 kB")], "meminfo does not"),
        ] {
            let (_folder, sources) = sources(&files, 1);
            let error = sources.memory(MemoryLimit::CgroupOrMachine).unwrap_err().to_string();
            assert!(error.contains(part), "{error}, without {part}");
        }
        for (files, part) in [
            (vec![], "proc/self/stat cannot be read"),
            (vec![("proc/self/stat", "1 x R 1")], "stat does not"),
            (vec![("proc/self/stat", "1 (x) R 1")], "stat does not"),
            (vec![("proc/self/stat", STAT), own, ("cgroup/cpu.max", "1\n")], "cpu.max does not"),
            (vec![("proc/self/stat", STAT), own, ("cgroup/cpu.max", "a b\n")], "cpu.max does not"),
        ] {
            let (_folder, sources) = sources(&files, 1);
            let error = sources.cpu().unwrap_err().to_string();
            assert!(error.contains(part), "{error}, without {part}");
        }
    }

    #[test]
    fn this_process_can_be_read() {
        let sources = OverloadSources::system(1);
        let memory = sources.memory(MemoryLimit::CgroupOrMachine).unwrap().unwrap();
        assert!(memory.used_bytes > 0 && memory.used_bytes < memory.limit_bytes, "{memory:?}");
        let cpu = sources.cpu().unwrap();
        assert!(cpu.cores > 0.0 && cpu.cores <= 1.0, "{cpu:?}");
    }
}
