//! Priority groups: which of them get requests, and how much each.
//!
//! As in Envoy: a group of which enough members are well takes all requests. One of which too few are takes what these
//! can carry, and leaves the rest to the next: with a threshold of 0.7, which is Envoy's overprovisioning factor of 1.4
//! (one divided by 0.71), and 42 % well, it takes 60 %.

use crate::upstream::Rank;

/// How the endpoints of one rank stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    pub rank: Rank,
    /// Those that are new and only starting are none of them.
    pub members: usize,
    pub well: usize,
}

/// The groups that get requests, the first first, and the share of each; together they are 1. None when nobody is well.
///
/// What drains has no part in this while anybody is well who does not.
pub fn shares(groups: impl IntoIterator<Item = Group>, threshold: f64) -> Vec<(Rank, f64)> {
    let (mut shares, mut rest) = (Vec::<(Rank, f64)>::new(), 1.0f64);
    for Group { rank, members, well } in groups.into_iter().filter(|group| group.well > 0) {
        if shares.last().is_some_and(|(before, _)| before.draining != rank.draining) {
            break;
        }
        let enough = members as f64 * threshold;
        let share = if well as f64 >= enough { rest } else { rest.min(well as f64 / enough) };
        shares.push((rank, share));
        rest -= share;
        if rest < 1e-9 {
            break;
        }
    }
    let given = 1.0 - rest;
    shares.iter_mut().for_each(|(_, share)| *share /= given);
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ready(priority: u32, members: usize, well: usize) -> Group {
        Group { rank: Rank { draining: false, priority }, members, well }
    }

    fn draining(priority: u32, members: usize, well: usize) -> Group {
        Group { rank: Rank { draining: true, priority }, members, well }
    }

    #[track_caller]
    fn check(groups: &[Group], threshold: f64, expected: &[(u32, f64)]) {
        let shares = shares(groups.iter().copied(), threshold);
        let shares: Vec<_> =
            shares.iter().map(|(rank, share)| (rank.priority, (share * 100.0).round() / 100.0)).collect();
        assert_eq!(shares, expected);
    }

    #[test]
    fn the_next_gets_what_those_before_cannot_carry() {
        check(&[ready(0, 10, 7), ready(1, 10, 10)], 0.7, &[(0, 1.0)]);
        check(&[ready(0, 10, 6), ready(1, 10, 10)], 0.7, &[(0, 0.86), (1, 0.14)]);
        check(&[ready(0, 10, 0), ready(1, 10, 10)], 0.7, &[(1, 1.0)]);
        check(&[ready(0, 10, 2), ready(1, 10, 4), ready(9, 2, 2)], 0.8, &[(0, 0.25), (1, 0.5), (9, 0.25)]);
    }

    #[test]
    fn where_all_are_short_they_share_what_there_is() {
        check(&[ready(0, 10, 1), ready(1, 10, 3)], 0.8, &[(0, 0.25), (1, 0.75)]);
        check(&[ready(0, 10, 1)], 0.7, &[(0, 1.0)]);
        check(&[ready(0, 10, 0)], 0.7, &[]);
    }

    #[test]
    fn with_a_threshold_of_nothing_the_last_that_is_well_takes_all() {
        check(&[ready(0, 100, 1), ready(1, 100, 100)], 0.0, &[(0, 1.0)]);
    }

    #[test]
    fn what_drains_is_the_last_resort() {
        check(&[ready(0, 10, 1), draining(0, 10, 10)], 0.7, &[(0, 1.0)]);
        check(&[ready(3, 10, 0), draining(0, 10, 10)], 0.7, &[(0, 1.0)]);
    }

    proptest! {
        #[test]
        fn all_requests_go_somewhere_and_nobody_waits_behind_who_has_room(
            groups in prop::collection::vec((1usize..50, 0usize..50), 1..6), threshold in 0.0f64..=1.0,
        ) {
            let groups: Vec<Group> = (0..).zip(groups).map(|(priority, (members, well))| ready(priority, members, well.min(members))).collect();
            let shares = shares(groups.iter().copied(), threshold);
            prop_assert_eq!(shares.is_empty(), groups.iter().all(|group| group.well == 0));
            let total: f64 = shares.iter().map(|(_, share)| share).sum();
            prop_assert!(shares.is_empty() || (total - 1.0).abs() < 1e-6, "{total}");
            let well: Vec<_> = groups.iter().filter(|group| group.well > 0).collect();
            for (place, (rank, share)) in shares.iter().enumerate() {
                prop_assert_eq!(*rank, well[place].rank, "in their order, and none is passed over");
                prop_assert!(*share > 0.0);
                let has_room = well[place].well as f64 >= well[place].members as f64 * threshold;
                prop_assert!(!has_room || place + 1 == shares.len(), "nobody behind one that has room gets any");
            }
        }
    }
}
