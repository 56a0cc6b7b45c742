//! Memory of the process: how much there is, and address space that costs nothing until it is written.
//!
//! With `engine/ort`, the only place with `unsafe`.

mod huge;

use std::fs;
use std::ops::{Deref, DerefMut, Range};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

pub use huge::use_huge_pages;

/// Bytes that this process may use: the limit of its cgroup, or the machine's memory.
///
/// From: `memory.max` (cgroup v2) of the process's group and those above it, `memory.limit_in_bytes` (v1),
/// `MemTotal` of `/proc/meminfo`.
pub fn limit_bytes() -> Option<u64> {
    let machine = machine_bytes();
    cgroup_bytes().into_iter().chain(machine).min()
}

/// Bytes of this process that are in memory now.
///
/// From: `/proc/self/statm`, in pages.
pub fn resident_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * page_bytes() as u64)
}

/// Bytes that may still be taken, out of `limit` (that of the settings) or of what the cgroup or the machine allows; a tenth
/// of the limit is left alone.
///
/// From: `memory.current` and the page cache that can be dropped at once (`inactive_file` of `memory.stat`), in cgroup v2
/// and v1; without a cgroup `MemAvailable` of `/proc/meminfo`.
pub fn free_bytes(limit: Option<u64>) -> Option<u64> {
    let reserve = |bytes: u64| bytes / 10;
    let own =
        limit.map(|limit| (limit - reserve(limit)).saturating_sub(resident_bytes().unwrap_or_default()));
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = cgroup_free_bytes(&membership, Path::new("/sys/fs/cgroup"));
    let machine = machine_bytes().zip(meminfo("MemAvailable:"));
    let machine = machine.map(|(total, available)| available.saturating_sub(reserve(total)));
    [own, group, machine].into_iter().flatten().min()
}

/// The least that any of the groups with a limit leaves.
fn cgroup_free_bytes(membership: &str, root: &Path) -> Option<u64> {
    let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let groups = group_folders(membership, root);
    let free = groups.into_iter().filter_map(|(folder, files)| {
        let limit = number(&folder.join(files.limit))?;
        let current = number(&folder.join(files.current))?;
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let line = stat.lines().find_map(|line| line.strip_prefix(files.inactive_file));
        let droppable: u64 = line.and_then(|line| line.trim().parse().ok()).unwrap_or_default();
        Some((limit - limit / 10).saturating_sub(current.saturating_sub(droppable)))
    });
    free.min()
}

/// Blocks of this size and larger are mapped by themselves.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: libc::c_int = 256 << 10;

/// Has large blocks mapped by themselves, so that they go back to the system when they are freed. To be called before anything
/// large is allocated.
///
/// Left to itself the allocator raises that bound to 32 MiB when the first model is dropped. The weights of the next one then lie
/// among smaller blocks of many threads, and what they leave cannot be given back: after a few dozen swaps the process had grown by
/// half of a model.
pub fn map_large_blocks() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(unsafe_code, reason = "the standard library has no way to ask for it")]
        // SAFETY: a setting of the allocator; nobody holds anything yet that it would change.
        let _accepted = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES) };
    }
}

/// Gives memory that is not in use back to the system: the allocator keeps it otherwise.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(unsafe_code, reason = "the standard library has no way to ask for it")]
        // SAFETY: changes nothing that anybody holds.
        let _trimmed = unsafe { libc::malloc_trim(0) };
    }
}

/// Makes the calling thread, and those that it will start, give way to all others. They cannot come back.
pub fn give_way() {
    #[expect(unsafe_code, reason = "the standard library knows no priorities")]
    // SAFETY: a call without pointers; 0 is the calling thread.
    let status = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
    if status != 0 {
        tracing::debug!("the priority of a thread could not be lowered");
    }
}

/// The most bytes of this process that were in memory at once.
///
/// From: `VmHWM` of `/proc/self/status`.
pub fn peak_bytes() -> Option<u64> {
    kibibytes_of(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Limits of a process that tries something dangerous.
#[derive(Debug, Clone, Copy)]
pub struct ProcessBounds {
    /// Bytes of memory that it may write, stacks included; address space that is only reserved to be written counts too.
    pub memory_bytes: u64,
    /// Seconds of CPU time, all threads together.
    pub cpu_seconds: u64,
    /// The process that it must not outlive.
    pub parent: i32,
}

/// Files that such a process may have open at once.
const OPEN_FILES: u64 = 256;
/// The lowest priority: threads inherit it.
const NICE: i32 = 19;

/// Binds this process for the rest of its life: memory, CPU time, open files, no core dump, lowest priority, and its end
/// when the parent ends. A step that the system refuses is passed over, except that of the memory.
///
/// # Errors
/// The limit of the memory is refused, or the parent has ended already.
pub fn bind_process(bounds: &ProcessBounds) -> std::io::Result<()> {
    use rustix::process::{self, Resource, Rlimit, Signal};

    let ProcessBounds { memory_bytes, cpu_seconds, parent } = *bounds;
    let limit =
        |resource, value| process::setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) });
    process::set_parent_process_death_signal(Some(Signal::KILL)).unwrap_or_default();
    // It may have ended before the line above.
    if process::getppid().map(process::Pid::as_raw_nonzero).map(i32::from) != Some(parent) {
        return Err(std::io::Error::other("the process that asked has ended"));
    }
    // If the group has no memory left, this process goes and not the one that serves.
    fs::write("/proc/self/oom_score_adj", "1000").unwrap_or_default();
    limit(Resource::Core, 0).unwrap_or_default();
    limit(Resource::Nofile, OPEN_FILES).unwrap_or_default();
    limit(Resource::Cpu, cpu_seconds).unwrap_or_default();
    process::nice(NICE).map(drop).unwrap_or_default();
    limit(Resource::Data, memory_bytes)?;
    Ok(())
}

fn machine_bytes() -> Option<u64> {
    meminfo("MemTotal:")
}

fn meminfo(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    kibibytes_of(&text, name)
}

/// The bytes that a line of `/proc` gives as `label  123 kB`.
fn kibibytes_of(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn cgroup_bytes() -> Option<u64> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    limit_of(&membership, Path::new("/sys/fs/cgroup"))
}

/// The smallest limit of the groups that `membership` (the text of `/proc/self/cgroup`) names, and of those above.
fn limit_of(membership: &str, root: &Path) -> Option<u64> {
    let groups = group_folders(membership, root).into_iter();
    let limits = groups.filter_map(|(folder, files)| {
        fs::read_to_string(folder.join(files.limit)).ok()?.trim().parse::<u64>().ok()
    });
    limits.min()
}

/// Names of the files of a group's memory controller.
#[derive(Clone, Copy)]
struct GroupFiles {
    limit: &'static str,
    current: &'static str,
    /// Beginning of the line of `memory.stat`.
    inactive_file: &'static str,
}

const VERSION_2: GroupFiles =
    GroupFiles { limit: "memory.max", current: "memory.current", inactive_file: "inactive_file " };
const VERSION_1: GroupFiles = GroupFiles {
    limit: "memory.limit_in_bytes",
    current: "memory.usage_in_bytes",
    inactive_file: "total_inactive_file ",
};

/// The folders of the groups that `membership` names, and of those above.
fn group_folders(membership: &str, root: &Path) -> Vec<(PathBuf, GroupFiles)> {
    let mut folders = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (base, files) = match controllers {
            "" => (root.to_owned(), VERSION_2),
            "memory" => (root.join("memory"), VERSION_1),
            _ => continue,
        };
        // Inside a container the group's path may be that of the host, so groups that are not there are passed over.
        let group = Path::new(group.trim_start_matches('/'));
        folders.extend(group.ancestors().map(|ancestor| (base.join(ancestor), files)));
    }
    folders
}

fn page_bytes() -> usize {
    #[expect(unsafe_code, reason = "a call without arguments that touch memory")]
    // SAFETY: `sysconf` reads a constant of the system.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

/// Zeroed bytes in address space of their own, page-aligned: pages come into being when they are written, and can be
/// given back.
pub struct Reserved {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory belongs to this value alone, like that of a `Vec`.
#[expect(unsafe_code, reason = "plain memory without thread affinity")]
unsafe impl Send for Reserved {}

impl Reserved {
    /// Reserves room for `length` bytes. With `huge_pages` the system is asked for pages of 2 MiB, which are faster to
    /// find and come into being whole.
    ///
    /// # Errors
    /// The system refuses so much address space.
    pub fn new(length: usize, huge_pages: bool) -> std::io::Result<Self> {
        let bytes = length.max(1);
        #[expect(unsafe_code, reason = "std cannot reserve address space without committing memory")]
        // SAFETY: a new private anonymous mapping touches no memory of anybody.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if huge_pages && address != libc::MAP_FAILED {
            #[expect(unsafe_code, reason = "std has no way to ask for huge pages")]
            // SAFETY: advice about the mapping that was just made; a system that cannot follow it does nothing.
            let _advice = unsafe { libc::madvise(address, bytes, libc::MADV_HUGEPAGE) };
        }
        match NonNull::new(address.cast()) {
            Some(start) if address != libc::MAP_FAILED => Ok(Self { start, length }),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    /// Gives the memory of whole pages inside `range` back to the system; they are zero afterwards, others keep
    /// their value.
    ///
    /// # Panics
    /// When the range is not inside these bytes.
    pub fn give_back(&mut self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.length, "a range of these bytes");
        let page = page_bytes();
        let base = self.start.as_ptr() as usize;
        let from = (base + range.start).next_multiple_of(page);
        let to = (base + range.end) / page * page;
        if from < to {
            #[expect(unsafe_code, reason = "std has no way to give pages back")]
            // SAFETY: the pages lie inside this mapping, which `&mut self` makes ours alone; private anonymous pages
            // read as zero afterwards.
            let status = unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_DONTNEED) };
            debug_assert_eq!(status, 0, "giving pages back failed");
        }
    }
}

impl Deref for Reserved {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        #[expect(unsafe_code, reason = "a slice over the mapping")]
        // SAFETY: the mapping holds `length` initialised (zeroed) bytes for the life of `self`.
        unsafe {
            std::slice::from_raw_parts(self.start.as_ptr(), self.length)
        }
    }
}

impl DerefMut for Reserved {
    fn deref_mut(&mut self) -> &mut [u8] {
        #[expect(unsafe_code, reason = "a slice over the mapping")]
        // SAFETY: as in `deref`, and `&mut self` makes it the only one.
        unsafe {
            std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length)
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let bytes = self.length.max(1);
        #[expect(unsafe_code, reason = "the counterpart of `new`")]
        // SAFETY: exactly the mapping that `new` made, and nobody borrows it any more.
        let status = unsafe { libc::munmap(self.start.as_ptr().cast(), bytes) };
        debug_assert_eq!(status, 0, "unmapping failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_limit_on_the_way_to_the_root_counts() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("pods/pod1/container");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        fs::write(root.path().join("pods/pod1/memory.max"), "1073741824\n").unwrap();
        fs::write(root.path().join("pods/memory.max"), "4294967296\n").unwrap();
        assert_eq!(limit_of("0::/pods/pod1/container\n", root.path()), Some(1 << 30));
        assert_eq!(limit_of("0::/elsewhere\n", root.path()), None);
    }

    #[test]
    fn the_older_hierarchy_is_understood() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("memory/docker/abc");
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("memory.limit_in_bytes"), "536870912\n").unwrap();
        let membership = "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n";
        assert_eq!(limit_of(membership, root.path()), Some(512 << 20));
    }

    #[test]
    fn what_is_free_is_the_least_that_a_group_leaves() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("pods/pod1");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("memory.max"), "1000\n").unwrap();
        fs::write(inner.join("memory.current"), "700\n").unwrap();
        fs::write(inner.join("memory.stat"), "anon 300\ninactive_file 400\n").unwrap();
        assert_eq!(cgroup_free_bytes("0::/pods/pod1\n", root.path()), Some(600));
        fs::write(root.path().join("pods/memory.max"), "2000\n").unwrap();
        fs::write(root.path().join("pods/memory.current"), "1500\n").unwrap();
        assert_eq!(cgroup_free_bytes("0::/pods/pod1\n", root.path()), Some(300));
        assert!(free_bytes(None).unwrap() > 0);
        assert_eq!(free_bytes(Some(1)), Some(0));
    }

    #[test]
    fn this_process_has_a_limit_and_uses_memory() {
        let limit = limit_bytes().unwrap();
        let resident = resident_bytes().unwrap();
        assert!(resident > 100_000 && resident < limit, "{resident} of {limit}");
    }

    #[test]
    fn reserved_memory_is_zero_keeps_what_is_written_and_can_be_given_back() {
        let page = page_bytes();
        let mut reserved = Reserved::new(4 * page, false).unwrap();
        assert!(reserved.iter().all(|byte| *byte == 0));
        reserved.fill(1);
        reserved.give_back(page / 2..3 * page + 1);
        let zeroed: Vec<usize> = (0..4).filter(|number| reserved[number * page + 1] == 0).collect();
        assert_eq!(zeroed, [1, 2], "only whole pages inside the range are given back");
    }

    #[test]
    fn address_space_is_not_memory() {
        let before = resident_bytes().unwrap();
        let mut reserved = Reserved::new(4 << 30, false).unwrap();
        reserved[12345] = 1;
        assert!(resident_bytes().unwrap() < before + (64 << 20), "4 GiB were committed");
    }
}
