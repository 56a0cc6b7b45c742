//! Memory that is in use anyway, moved into huge pages.
//!
//! A step reads every weight once, so a model of any size reads its memory from one end to the other, again and again. In pages
//! of 4 KiB the processor finds each page anew and prefetches to its end only. Weights lie where ONNX Runtime puts them, and it
//! asks the system for nothing, so this is done afterwards, from outside: whole huge pages are looked for that are in memory
//! already, and the system is asked to put each into one piece. Nothing takes more memory than before.

use std::fs;
use std::ops::Range;

/// What the system says of huge pages.
const SETTINGS: &str = "/sys/kernel/mm/transparent_hugepage";

/// Moves memory of this process that is there in whole huge pages into such. Bytes that lie in huge pages afterwards, where that is
/// known; nothing happens where the system has none or may not, and on Linux before 6.1.
///
/// Holds up threads that ask for new memory for the time of copying one huge page.
///
/// From: `AnonHugePages` of `/proc/self/smaps_rollup`
pub fn use_huge_pages() -> Option<u64> {
    let enabled = fs::read_to_string(format!("{SETTINGS}/enabled")).unwrap_or_default();
    let size = fs::read_to_string(format!("{SETTINGS}/hpage_pmd_size")).unwrap_or_default();
    let huge = size.trim().parse::<usize>().ok()?;
    if enabled.contains("[never]") {
        return None;
    }
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let areas = maps.lines().filter_map(private_area).filter_map(|area| whole_pages(&area, huge));
    areas.flat_map(|area| resident_runs(&area, huge)).for_each(|run| collapse(&run));
    super::kibibytes_of(&fs::read_to_string("/proc/self/smaps_rollup").ok()?, "AnonHugePages:")
}

/// The addresses of a line of `/proc/PID/maps` that is written memory without a file behind it.
fn private_area(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let (addresses, permissions) = (fields.next()?, fields.next()?);
    let (_offset, _device, inode, name) = (fields.next()?, fields.next()?, fields.next()?, fields.next());
    let is_plain = name.is_none_or(|name| name == "[heap]" || name.starts_with("[anon:"));
    if permissions != "rw-p" || inode != "0" || !is_plain {
        return None;
    }
    let (start, end) = addresses.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

/// The part of an area that is made of whole huge pages.
fn whole_pages(area: &Range<usize>, huge: usize) -> Option<Range<usize>> {
    let whole = area.start.next_multiple_of(huge)..area.end / huge * huge;
    (whole.start < whole.end).then_some(whole)
}

/// The huge pages of an area of which every page is in memory, neighbours together.
fn resident_runs(area: &Range<usize>, huge: usize) -> Vec<Range<usize>> {
    let page = super::page_bytes();
    let mut is_resident = vec![0_u8; area.len() / page];
    #[expect(unsafe_code, reason = "the standard library does not know which pages are in memory")]
    // SAFETY: writes a byte for each page of the area into a buffer of that size; an area that is gone is an error.
    let status = unsafe {
        libc::mincore(area.start as *mut libc::c_void, area.len(), is_resident.as_mut_ptr().cast())
    };
    if status != 0 {
        return Vec::new();
    }
    let pages = is_resident.chunks_exact(huge / page).map(|pages| pages.iter().all(|page| page & 1 == 1));
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (number, _) in pages.enumerate().filter(|(_, is_whole)| *is_whole) {
        let start = area.start + number * huge;
        match runs.last_mut() {
            Some(run) if run.end == start => run.end += huge,
            _ => runs.push(start..start + huge),
        }
    }
    runs
}

/// Asks the system to put huge pages into one piece each.
fn collapse(run: &Range<usize>) {
    /// From: `linux/mman.h`; the same on every architecture that we are built for.
    const MADV_COLLAPSE: libc::c_int = 25;
    #[expect(unsafe_code, reason = "the standard library knows no huge pages")]
    // SAFETY: moves memory without changing what anybody reads in it, and is an error where there is none (any more).
    let status = unsafe { libc::madvise(run.start as *mut libc::c_void, run.len(), MADV_COLLAPSE) };
    if status != 0 {
        // Some of them may be done; others had no huge page left for them.
        let error = std::io::Error::last_os_error();
        tracing::debug!(%error, bytes = run.len(), "not all memory could be moved into huge pages");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Reserved;

    const HUGE: usize = 2 << 20;

    #[test]
    fn only_written_memory_without_a_file_is_looked_at() {
        let area = |rest: &str| private_area(&format!("7f0000200000-7f0000a00000 {rest}"));
        let whole = Some(0x7f00_0020_0000..0x7f00_00a0_0000);
        assert_eq!(area("rw-p 00000000 00:00 0"), whole);
        assert_eq!(area("rw-p 00000000 00:00 0                  [heap]"), whole);
        for other in [
            "r--p 00000000 00:00 0",
            "rw-s 00000000 00:00 0",
            "rw-p 00001000 fe:00 1234      /usr/lib/libc.so.6",
            "rw-p 00000000 00:00 0         [stack]",
        ] {
            assert_eq!(area(other), None, "{other}");
        }
        assert_eq!(private_area(""), None);
    }

    #[test]
    fn the_rims_of_an_area_are_left_alone() {
        assert_eq!(whole_pages(&(1..3 * HUGE + 1), HUGE), Some(HUGE..3 * HUGE));
        assert_eq!(whole_pages(&(1..2 * HUGE - 1), HUGE), None);
    }

    fn is_linux_6_1() -> bool {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
        (numbers.next(), numbers.next()) >= (Some(6), Some(1))
    }

    #[test]
    fn what_is_in_memory_keeps_its_bytes_and_what_is_not_stays_away() {
        let mut memory = Reserved::new(16 * HUGE, false).unwrap();
        let start = memory.as_ptr() as usize;
        let first = start.next_multiple_of(HUGE) - start;
        // Two whole huge pages, then one of which a single page is there, then one that is whole.
        let written = [first..first + 2 * HUGE, first + 3 * HUGE..first + 4 * HUGE];
        for range in &written {
            for (number, byte) in memory[range.clone()].iter_mut().enumerate() {
                *byte = (number % 251) as u8 + 1;
            }
        }
        memory[first + 2 * HUGE] = 9;
        let area = start + first..start + first + 5 * HUGE;
        let runs = resident_runs(&area, HUGE);
        assert_eq!(runs, [area.start..area.start + 2 * HUGE, area.start + 3 * HUGE..area.start + 4 * HUGE]);

        let moved = use_huge_pages();
        let pages = |at: usize| resident_runs(&(area.start + at..area.start + at + HUGE), HUGE).len();
        assert_eq!((pages(2 * HUGE), pages(4 * HUGE)), (0, 0), "nothing comes into being");
        for range in written {
            assert!(memory[range].iter().enumerate().all(|(number, byte)| *byte == (number % 251) as u8 + 1));
        }
        assert_eq!(memory[first + 2 * HUGE], 9);
        // Sandboxes and older systems have no way to do it.
        if let Some(moved) = moved.filter(|_| is_linux_6_1()) {
            assert!(moved >= 3 * HUGE as u64, "{moved} bytes in huge pages");
        }
    }
}
