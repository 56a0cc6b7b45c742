//! Memory of the process: how much there is, and address space that costs nothing until it is written.
//!
//! With `engine/ort`, the only place with `unsafe`.

use std::fs;
use std::ops::{Deref, DerefMut, Range};
use std::path::Path;
use std::ptr::NonNull;

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

fn machine_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn cgroup_bytes() -> Option<u64> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    limit_of(&membership, Path::new("/sys/fs/cgroup"))
}

/// The smallest limit of the groups that `membership` (the text of `/proc/self/cgroup`) names, and of those above.
fn limit_of(membership: &str, root: &Path) -> Option<u64> {
    let mut limits = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (base, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            "memory" => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        // Inside a container the group's path may be that of the host, so groups that are not there are passed over.
        let group = Path::new(group.trim_start_matches('/'));
        for ancestor in group.ancestors() {
            let text = fs::read_to_string(base.join(ancestor).join(file)).unwrap_or_default();
            limits.extend(text.trim().parse::<u64>());
        }
    }
    limits.into_iter().min()
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
