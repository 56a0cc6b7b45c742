//! Which rows share a run, where padding has to make them equally long. Pure: no tensors, no graph.

/// What keeps rows out of each other's runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Whether padding is wrong for this graph, so that only rows of one length may share a run.
    pub(super) equal_lengths: bool,
    /// Tokens of a run with padding, in percent of those without: 100 allows none.
    pub(super) padded_percent: usize,
    /// Tokens of a run with padding; a row that is longer runs alone.
    pub(super) tokens: usize,
}

/// Splits rows, given as row and length in tokens, into the groups that share a run.
///
/// Each row is in one group. Longest first, each group takes the rows that come next as long as the bounds allow, so
/// the result depends on nothing but rows and lengths; when all rows of a group grow alike, padding only gets rarer.
pub(super) fn group(rows: &[(usize, usize)], bounds: Bounds) -> Vec<Vec<usize>> {
    let mut sorted = rows.to_vec();
    sorted.sort_by_key(|(row, length)| (std::cmp::Reverse(*length), *row));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let (mut longest, mut total) = (0, 0);
    for (row, length) in sorted {
        if let Some(open) = groups.last_mut() {
            let padded = (open.len() + 1) * longest;
            let fits = padded * 100 <= (total + length) * bounds.padded_percent && padded <= bounds.tokens;
            if fits && (length == longest || !bounds.equal_lengths) {
                open.push(row);
                total += length;
                continue;
            }
        }
        groups.push(vec![row]);
        (longest, total) = (length, length);
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { equal_lengths: false, padded_percent: 200, tokens: usize::MAX };

    fn of(lengths: &[usize], bounds: Bounds) -> Vec<Vec<usize>> {
        let rows: Vec<(usize, usize)> = lengths.iter().copied().enumerate().collect();
        group(&rows, bounds)
    }

    #[test]
    fn rows_of_similar_length_share_a_run() {
        assert_eq!(of(&[10, 12, 7, 12], BOUNDS), [[1, 3, 0, 2]]);
    }

    #[test]
    fn a_row_that_would_mostly_be_padding_is_left_to_the_next_run() {
        assert_eq!(of(&[10, 100, 11, 9], BOUNDS), [vec![1, 2], vec![0, 3]]);
    }

    #[test]
    fn where_padding_is_wrong_only_equal_lengths_share_a_run() {
        let bounds = Bounds { equal_lengths: true, ..BOUNDS };
        assert_eq!(of(&[10, 11, 10, 11, 9], bounds), [vec![1, 3], vec![0, 2], vec![4]]);
    }

    #[test]
    fn a_run_is_bounded_and_a_row_beyond_the_bound_runs_alone() {
        let bounds = Bounds { tokens: 20, ..BOUNDS };
        assert_eq!(of(&[10, 30, 10, 9], bounds), [vec![1], vec![0, 2], vec![3]]);
    }

    proptest! {
        #[test]
        fn every_row_is_in_one_group_within_the_bounds_and_growth_keeps_it_there(
            lengths in proptest::collection::vec(1usize..500, 1..20),
            padded_percent in 100usize..300,
            tokens in 1usize..3000,
        ) {
            let bounds = Bounds { equal_lengths: false, padded_percent, tokens };
            let groups = of(&lengths, bounds);
            let mut all: Vec<usize> = groups.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            for rows in groups.iter().filter(|rows| rows.len() > 1) {
                for growth in [0, 1, 50] {
                    let longest = rows.iter().map(|row| lengths[*row] + growth).max().unwrap();
                    let total: usize = rows.iter().map(|row| lengths[*row] + growth).sum();
                    prop_assert!(rows.len() * longest * 100 <= total * padded_percent);
                    prop_assert!(growth > 0 || rows.len() * longest <= tokens);
                }
            }
        }
    }
}
