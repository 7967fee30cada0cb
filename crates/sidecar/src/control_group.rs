//! Whether a packet filter of this machine can tell the sidecar by its control group.

use std::path::{Path, PathBuf};

/// Why it cannot; with the way out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoControlGroup {
    #[error("this machine has no unified hierarchy of control groups (cgroup2): say --mark instead")]
    NoHierarchy,
    #[error(
        "nft finds control groups below /sys/fs/cgroup only, and this machine has the unified hierarchy at {}: say --tool \
         iptables, or --mark",
        .0.display()
    )]
    Elsewhere(PathBuf),
    #[error("there is no control group {}: the rule needs it to be there; start the sidecar in it first", .0.display())]
    Missing(PathBuf),
}

/// nft(8): where it looks for paths, whatever is mounted.
const NFT_ROOT: &str = "/sys/fs/cgroup";

/// `mounts` are lines as of proc_pid_mounts(5).
pub(crate) fn find(
    path: &str,
    by_nft: ByNft,
    mounts: &str,
    is_there: impl Fn(&Path) -> bool,
) -> Result<(), NoControlGroup> {
    let mut all = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (at, kind) = (words.nth(1)?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(at))
    });
    let root = all.next().ok_or(NoControlGroup::NoHierarchy)?;
    if by_nft == ByNft::Yes && root != Path::new(NFT_ROOT) {
        return Err(NoControlGroup::Elsewhere(root));
    }
    let group = root.join(path);
    if is_there(&group) { Ok(()) } else { Err(NoControlGroup::Missing(group)) }
}

/// Who is to tell packets by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ByNft {
    Yes,
    /// iptables finds the hierarchy wherever it is.
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_no_rule_can_name_is_refused_with_the_way_out() {
        const UNIFIED: &str = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        const HYBRID: &str =
            "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        const OLD: &str = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n";
        for (mounts, by_nft, path, words) in [
            (UNIFIED, ByNft::Yes, "mesh/proxy", ""),
            (UNIFIED, ByNft::No, "mesh/proxy", ""),
            (HYBRID, ByNft::No, "mesh/proxy", ""),
            (HYBRID, ByNft::Yes, "mesh/proxy", "--tool iptables"),
            (OLD, ByNft::No, "mesh/proxy", "no unified hierarchy"),
            (UNIFIED, ByNft::Yes, "other", "no control group /sys/fs/cgroup/other"),
            (HYBRID, ByNft::No, "other", "no control group /sys/fs/cgroup/unified/other"),
        ] {
            let found = find(path, by_nft, mounts, |group| group.ends_with("mesh/proxy"));
            let said = found.map_or_else(|why| why.to_string(), |()| String::new());
            assert!(said.contains(words) && said.is_empty() == words.is_empty(), "{mounts} {by_nft:?} {path}: {said}");
        }
    }
}
