//! The owner with events pushed by the test, and what stays over restarts.

use proptest::prelude::*;
use tokio::sync::oneshot;

use super::*;
use crate::upstream::{
    Claim, ClaimChange, Disk, Facts, Labels, OfferPolicy, Reason, RollbackError, Stats, Subset, Weight,
};

fn source(registry: &str) -> SourceName {
    SourceName { registry: registry.into(), service: "orders".into() }
}

fn plan(registries: &[&str], disk: Option<Disk>) -> Plan {
    let name = UpstreamName::new("orders");
    Plan {
        list: disk.map(|disk| disk.take(&name)),
        name,
        sources: registries.iter().map(|registry| source(registry)).collect(),
        labels: Vec::new(),
        known: None,
        policies: watch::channel(Arc::default()).1,
    }
}

fn owner(registries: &[&str]) -> Owner {
    Owner::new(plan(registries, None))
}

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn labelled(port: u16, labels: &[(&str, &str)]) -> Claim {
    Claim {
        id: port.to_string(),
        addresses: vec![address(port)],
        weight: Some(Weight::ONE),
        facts: Facts {
            labels: Labels::new(labels.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()),
            ..Facts::default()
        },
    }
}

fn news(source: usize, ports: impl IntoIterator<Item = u16>) -> Event {
    let claims = ports.into_iter().map(|port| labelled(port, &[])).collect();
    Event::News { source, news: News::Complete(claims) }
}

fn failed(source: usize) -> Event {
    Event::Failed { source, kind: "unavailable", text: "connection refused".into() }
}

fn ports(owner: &Owner) -> Vec<u16> {
    let mut ports: Vec<u16> = owner.reader.snapshot().iter().map(|member| member.address().port()).collect();
    ports.sort_unstable();
    ports
}

fn refuse(owner: &mut Owner, port: u16, times: usize) {
    let report = Report { address: address(port), evidence: Evidence::ConnectFailed };
    (0..times).for_each(|_| owner.report(report));
}

#[tokio::test]
async fn one_registry_fails_and_the_other_goes_on() {
    let mut owner = owner(&["a", "b"]);
    owner.take(news(0, [1]));
    owner.take(news(1, [2]));
    owner.take(failed(0));
    owner.take(news(1, [3]));

    assert_eq!(ports(&owner), [1, 3], "the first list is frozen, the second goes on");
    let status = owner.status.borrow();
    assert_eq!(status.sources[0].origin, Origin::Frozen);
    assert_eq!(status.sources[1].origin, Origin::Live);
    assert_eq!(status.history.iter().filter(|entry| entry.applied).count(), 3);
}

#[tokio::test]
async fn one_registry_loses_its_data_and_the_other_goes_on() {
    let mut owner = owner(&["a", "b"]);
    owner.take(news(0, [1, 2]));
    owner.take(news(1, [2, 3, 4]));
    owner.take(news(0, []));
    owner.take(news(1, [3, 4]));
    assert_eq!(ports(&owner), [1, 2, 3, 4], "held by the first, though the second believes in the end of 2");
    let status = owner.status.borrow();
    let held: Vec<SocketAddr> = status.sources[0].reserve.iter().map(|held| held.address).collect();
    assert_eq!(held, [address(1), address(2)]);
    assert!(status.sources[0].reserve_offered && status.sources[1].reserve.is_empty());
    assert_eq!(status.history.iter().filter(|entry| entry.held.count == 2).count(), 1);
}

#[tokio::test]
async fn only_instances_with_all_labels_count() {
    let labels = vec![("version".into(), "2".into())];
    let mut owner = Owner::new(Plan { labels, ..plan(&["a"], None) });
    let list = vec![
        labelled(1, &[("version", "2")]),
        labelled(2, &[("version", "1")]),
        labelled(3, &[("version", "2")]),
    ];
    owner.take(Event::News { source: 0, news: News::Complete(list) });
    assert_eq!(ports(&owner), [1, 3]);

    let relabelled = News::Partial(vec![labelled(1, &[("version", "3")])]);
    owner.take(Event::News { source: 0, news: relabelled });
    assert_eq!(ports(&owner), [3], "an instance that lost the label leaves");
}

/// Who has left, of those that requests may still be under way to.
fn left(stats: &[(u16, Arc<Stats>)]) -> Vec<u16> {
    stats.iter().filter(|(_, stats)| stats.has_left()).map(|(port, _)| *port).collect()
}

fn statistics(owner: &Owner) -> Vec<(u16, Arc<Stats>)> {
    let snapshot = owner.reader.snapshot();
    snapshot.iter().map(|member| (member.address().port(), member.stats().clone())).collect()
}

#[tokio::test]
async fn an_endpoint_has_left_when_it_is_in_no_list_any_more() {
    let mut owner = owner(&["a", "b"]);
    owner.take(news(0, 1..=8));
    let stats = statistics(&owner);
    refuse(&mut owner, 1, 2);
    assert_eq!((ports(&owner).len(), left(&stats)), (7, vec![]), "an ejection is no leaving");
    let drained = Claim { weight: None, ..labelled(2, &[]) };
    owner.take(Event::News { source: 0, news: News::Changes(vec![ClaimChange::Put(drained)]) });
    assert_eq!((ports(&owner).len(), left(&stats)), (6, vec![]), "nor is a drain");

    owner.take(news(0, 3..=8));
    assert_eq!(left(&stats), [1, 2], "also of those that were not offered");
    owner.take(news(1, [1, 9]));
    assert_eq!(left(&stats), [2], "another registry names it, though it is still ejected");
    owner.take(news(0, [8]));
    assert_eq!(left(&stats), [2], "the others are a reserve, which need not be offered");
    assert!(!owner.status.borrow().sources[0].reserve.is_empty());
    owner.obey(&Order::Accept { source: Some(0) }).unwrap();
    owner.refresh();
    assert_eq!(left(&stats), [2, 3, 4, 5, 6, 7]);
    owner.take(news(0, [7, 8]));
    assert_eq!(left(&stats), [2, 3, 4, 5, 6], "it is back");

    owner.obey(&Order::Pin).unwrap();
    owner.take(news(0, [8]));
    owner.obey(&Order::Accept { source: Some(0) }).unwrap_or(());
    owner.refresh();
    assert_eq!(left(&stats), [2, 3, 4, 5, 6], "what is pinned is in the list");
    owner.obey(&Order::Unpin).unwrap();
    owner.refresh();
    assert_eq!(left(&stats), [2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn an_ejected_endpoint_leaves_and_comes_back_with_its_statistics() {
    let mut owner = owner(&["a"]);
    owner.take(news(0, 1..=3));
    let snapshot = owner.reader.snapshot();
    let before = snapshot.iter().find(|member| member.address() == address(1)).unwrap().stats().clone();
    refuse(&mut owner, 1, 2);
    assert_eq!(ports(&owner), [2, 3]);
    let out = owner.status.borrow().ejected[0].clone();
    assert_eq!((out.address, out.reason), (address(1), Reason::Starting));
    refuse(&mut owner, 2, 2);
    assert_eq!(owner.status.borrow().ejected[0].since, out.since, "it has been out since then");
    owner.take(Event::Checked { address: address(2), passed: true });
    assert!(owner.suspects.borrow().contains_key(&address(1)));
    owner.take(Event::Checked { address: address(1), passed: true });
    assert_eq!(ports(&owner), [1, 2, 3]);
    let snapshot = owner.reader.snapshot();
    let after = snapshot.iter().find(|member| member.address() == address(1)).unwrap().stats().clone();
    assert!(Arc::ptr_eq(&before, &after));
    assert!(owner.suspects.borrow().is_empty() && owner.status.borrow().ejected.is_empty());
}

#[tokio::test]
async fn the_old_colour_serves_while_the_new_one_refuses() {
    let mut owner = owner(&["a"]);
    owner.take(news(0, [1]));
    owner.take(news(0, [2]));
    assert_eq!(ports(&owner), [2]);
    refuse(&mut owner, 2, 1);
    assert_eq!(ports(&owner), [1]);
    owner.take(Event::Checked { address: address(2), passed: true });
    assert_eq!(ports(&owner), [2]);
}

#[tokio::test]
async fn a_list_of_dead_addresses_brings_the_old_one_back_after_a_few_refusals() {
    let mut owner = owner(&["a"]);
    owner.take(news(0, [1, 2]));
    owner.take(news(0, 10..110));
    (10..12).for_each(|port| refuse(&mut owner, port, 1));
    assert_eq!(ports(&owner).len(), 98);
    refuse(&mut owner, 12, 1);
    assert_eq!(ports(&owner), [1, 2]);
    owner.take(Event::Checked { address: address(20), passed: true });
    assert_eq!(ports(&owner), [20], "one that answers is enough for a list of two");
}

#[tokio::test]
async fn a_list_of_which_one_has_answered_is_not_doubted() {
    let mut owner = owner(&["a"]);
    owner.take(news(0, [1, 2]));
    owner.take(news(0, 10..110));
    let snapshot = owner.reader.snapshot();
    let answering = snapshot.iter().find(|member| member.address() == address(20)).unwrap();
    answering.stats().record(now(), Duration::from_millis(1), true);
    (10..15).for_each(|port| refuse(&mut owner, port, 1));
    assert_eq!(ports(&owner).len(), 95);
}

#[tokio::test]
async fn evidence_about_strangers_is_not_remembered() {
    let mut owner = owner(&["a"]);
    owner.take(news(0, 1..=3));
    refuse(&mut owner, 9, 5);
    owner.take(Event::Checked { address: address(9), passed: false });
    assert!(!owner.health.is_waiting());
    refuse(&mut owner, 1, 5);
    owner.take(news(0, 2..=3));
    owner.tick();
    assert!(!owner.health.is_waiting(), "forgotten when it left");
}

#[tokio::test(start_paused = true)]
async fn a_reserve_leaves_by_itself_once_nobody_there_answers() {
    let mut owner = owner(&["a"]);
    owner.take(news(0, [1, 2]));
    owner.take(news(0, []));
    assert_eq!(ports(&owner), [1, 2]);
    for _ in 0..61 {
        owner.take(Event::Checked { address: address(1), passed: false });
        owner.take(Event::Checked { address: address(2), passed: true });
        tokio::time::advance(Duration::from_secs(1)).await;
        owner.tick();
    }
    assert_eq!(ports(&owner), [2]);
    assert!(!owner.status.borrow().is_unknown_service(), "held back, not unknown");
}

#[tokio::test(start_paused = true)]
async fn a_removal_is_confirmed_by_time_alone() {
    let mut owner = owner(&["a"]);
    owner.take(news(0, 1..=10));
    tokio::time::advance(Duration::from_secs(3_600)).await;
    let (reader, status) = (owner.reader(), owner.status());
    let (events, received) = mpsc::channel(8);
    let (_reports, reported) = mpsc::channel(8);
    let running = tokio::spawn(owner.run(received, reported));
    events.send(news(0, 1..=2)).await.unwrap();
    let mut generations = reader.follow().1;
    let started = tokio::time::Instant::now();
    while reader.snapshot().len() != 2 {
        generations.changed().await.unwrap();
    }
    assert!(started.elapsed() >= Duration::from_secs(300), "{:?}", started.elapsed());
    assert_eq!(status.borrow().history.iter().next_back().unwrap().cause, Cause::Confirmed);
    drop(events);
    running.await.unwrap();
}

#[tokio::test]
async fn a_pinned_list_stays_and_news_are_recorded() {
    let mut owner = owner(&["a"]);
    owner.take(news(0, 1..=3));
    owner.obey(&Order::Pin).unwrap();
    owner.take(news(0, 2..=4));
    assert_eq!(ports(&owner), [1, 2, 3]);
    let last = owner.status.borrow().history.iter().next_back().unwrap().clone();
    assert_eq!((last.applied, last.added.count, last.removed.count), (false, 1, 1));
    refuse(&mut owner, 1, 2);
    assert_eq!(ports(&owner), [2, 3], "a pinned list loses what fails");
    owner.obey(&Order::Unpin).unwrap();
    assert_eq!(ports(&owner), [2, 3, 4]);
    assert_eq!(owner.obey(&Order::Unpin), Err(OrderError::NotPinned));
}

#[tokio::test]
async fn a_rolled_back_list_is_that_of_its_generation() {
    let mut owner = owner(&["a"]);
    owner.take(news(0, 1..=3));
    let good = owner.publisher.generation();
    owner.take(news(0, 2..=4));
    owner.take(news(0, 3..=5));
    owner.obey(&Order::Rollback { generation: good }).unwrap();
    assert_eq!(ports(&owner), [1, 2, 3]);
    owner.refresh();
    assert_eq!(owner.status.borrow().pin.unwrap().endpoints, 3);
    let wanted = owner.publisher.generation() + 1;
    let refused = owner.obey(&Order::Rollback { generation: wanted });
    let expected = RollbackError::NotYet { wanted, latest: wanted - 1 };
    assert_eq!(refused, Err(OrderError::Rollback(expected)));
    owner.obey(&Order::Unpin).unwrap();
    assert_eq!(ports(&owner), [3, 4, 5]);
}

#[tokio::test]
async fn an_accepted_removal_is_carried_out() {
    let mut owner = owner(&["a", "b"]);
    owner.take(news(0, 1..=2));
    owner.take(news(0, []));
    assert_eq!(owner.obey(&Order::Accept { source: Some(2) }), Err(OrderError::NoSource(2)));
    assert_eq!(owner.obey(&Order::Accept { source: Some(1) }), Err(OrderError::NothingHeld));
    owner.obey(&Order::Accept { source: None }).unwrap();
    assert!(ports(&owner).is_empty());
}

fn drain(ports: impl IntoIterator<Item = u16>) -> Order {
    Order::Drain { addresses: ports.into_iter().map(address).collect() }
}

fn undrain(ports: impl IntoIterator<Item = u16>) -> Order {
    Order::Undrain { addresses: ports.into_iter().map(address).collect() }
}

fn draining(owner: &mut Owner) -> Vec<u16> {
    owner.refresh();
    owner.status.borrow().draining.iter().map(|of| of.address.port()).collect()
}

#[tokio::test]
async fn an_endpoint_that_drains_waits_until_nobody_else_is_well() {
    let mut owner = owner(&["a"]);
    owner.take(news(0, 1..=3));
    owner.obey(&drain([1, 2])).unwrap();
    assert_eq!((ports(&owner), draining(&mut owner)), (vec![3], vec![1, 2]));
    let waiting: Vec<u16> = owner.status.borrow().standby.iter().map(|of| of.address.port()).collect();
    assert_eq!(waiting.len(), 2, "{waiting:?}");
    let last = owner.status.borrow().history.iter().next_back().unwrap().clone();
    assert_eq!((last.cause, last.applied, last.updated.count, last.source), (Cause::Drained, true, 2, None));
    refuse(&mut owner, 3, 2);
    assert_eq!(ports(&owner), [1, 2], "rather those than nobody");

    let unknown = owner.obey(&drain([1, 9]));
    assert_eq!(unknown, Err(OrderError::NoEndpoint(address(9))));
    let other = owner.obey(&undrain([1, 3]));
    assert_eq!(other, Err(OrderError::NotDraining(address(3))));
    assert_eq!(draining(&mut owner), [1, 2], "all of them, or none");
    owner.obey(&undrain([1, 2])).unwrap();
    assert_eq!((ports(&owner), draining(&mut owner)), (vec![1, 2], vec![]));
    assert_eq!(owner.status.borrow().history.iter().next_back().unwrap().cause, Cause::Undrained);
}

#[tokio::test]
async fn a_drain_stays_over_changes_of_the_list_and_orders() {
    let mut owner = owner(&["a"]);
    owner.take(news(0, 1..=3));
    let before = owner.publisher.generation();
    owner.obey(&drain([1])).unwrap();
    assert_eq!(draining(&mut owner), [1]);
    let since = owner.status.borrow().draining[0].since;
    owner.take(news(0, 2..=4));
    assert_eq!((ports(&owner), draining(&mut owner)), (vec![2, 3, 4], vec![1]), "though it has left");
    owner.take(news(0, 1..=4));
    assert_eq!(ports(&owner), [2, 3, 4], "it came back");
    owner.obey(&Order::Pin).unwrap();
    owner.obey(&Order::Rollback { generation: before }).unwrap();
    assert_eq!(ports(&owner), [2, 3], "the list of then, and who drains");
    let mut restarted = next(&owner, &["a"]);
    assert_eq!((ports(&restarted), draining(&mut restarted)), (vec![2, 3], vec![1]));
    restarted.obey(&undrain([1])).unwrap();
    assert_eq!(ports(&restarted), [1, 2, 3], "the pin has no drain in it");

    owner.obey(&Order::Unpin).unwrap();
    owner.obey(&drain([1, 2])).unwrap();
    assert_eq!(draining(&mut owner), [1, 2]);
    assert_eq!(owner.status.borrow().draining[0].since, since, "it goes on since then");
    owner.obey(&undrain([1, 2])).unwrap();
    assert_eq!(ports(&owner), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_drain_of_an_endpoint_in_no_list_is_told_after_a_restart() {
    let known = Saved {
        at: SystemTime::now(),
        sources: Vec::new(),
        pin: None,
        drains: Drains::from_iter([(address(1), SystemTime::now())]),
        health: None,
    };
    let restarted = Owner::new(Plan { known: Some(known), ..plan(&["a"], None) });
    let draining: Vec<SocketAddr> = restarted.status.borrow().draining.iter().map(|of| of.address).collect();
    assert_eq!(draining, [address(1)]);
}

#[tokio::test]
async fn an_order_about_endpoints_in_no_list_is_told_and_no_change_of_the_list() {
    let mut owner = owner(&["a"]);
    owner.take(news(0, 1..=3));
    owner.obey(&drain([1])).unwrap();
    owner.take(news(0, 2..=4));
    let recorded = owner.status.borrow().history.iter().count();
    owner.obey(&drain([1])).unwrap();
    owner.obey(&undrain([1])).unwrap();
    owner.refresh();
    assert!(owner.status.borrow().draining.is_empty());
    assert_eq!(owner.status.borrow().history.iter().count(), recorded);
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_to_one_that_drains_stays_known_however_many_have_left() {
    let mut owner = owner(&["a"]);
    owner.take(news(0, 1..=400));
    let snapshot = owner.reader.snapshot();
    let member = snapshot.iter().find(|member| member.address() == address(1)).unwrap();
    let _under_way = member.begin(now());
    owner.obey(&drain([1])).unwrap();
    owner.refresh();
    owner.take(Event::News {
        source: 0,
        news: News::Changes((1..=300).map(|port| ClaimChange::Remove(port.to_string())).collect()),
    });
    owner.obey(&Order::Accept { source: None }).unwrap();
    owner.refresh();
    let in_flight = |owner: &Owner| {
        let status = owner.status.borrow();
        status.draining.first().and_then(|of| Some(of.stats.as_ref()?.in_flight()))
    };
    assert_eq!(in_flight(&owner), Some(1));
    tokio::time::advance(Duration::from_secs(700)).await;
    // Another change of the list, after which those that left are forgotten.
    for port in [500, 501] {
        owner.take(news(0, (301..=400).chain([port])));
    }
    assert!(owner.publisher.stats_of(address(2)).is_none(), "of others nothing is remembered");
    assert_eq!(in_flight(&owner), Some(1));
    owner.take(news(0, [1, 301]));
    owner.obey(&undrain([1])).unwrap();
    assert_eq!(owner.publisher.stats_of(address(1)).unwrap().in_flight(), 1, "also when it is back");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_drains_no_more_starts_slowly() {
    let slow_start = Some(Duration::from_secs(60));
    let policies = offering(OfferPolicy { slow_start, ..OfferPolicy::default() });
    let mut owner = Owner::new(Plan { policies: policies.subscribe(), ..plan(&["a"], None) });
    owner.take(news(0, 1..=4));
    tokio::time::advance(Duration::from_secs(100)).await;
    owner.look();
    owner.obey(&drain([1])).unwrap();
    owner.refresh();
    assert_eq!((owner.status.borrow().starting, ports(&owner)), (0, vec![2, 3, 4]));
    owner.obey(&undrain([1])).unwrap();
    owner.refresh();
    assert_eq!((owner.status.borrow().starting, ports(&owner)), (1, vec![1, 2, 3, 4]));
}

#[tokio::test]
async fn a_drain_in_a_subset_is_replaced_and_concerns_the_whole_list() {
    let policies =
        offering(OfferPolicy { subset: Some(Subset { place: 0, size: 3 }), ..OfferPolicy::default() });
    let mut owner = Owner::new(Plan { policies: policies.subscribe(), ..plan(&["a"], None) });
    owner.take(news(0, 1..=20));
    let used = ports(&owner);
    let unused = (1..=20).find(|port| !used.contains(port)).unwrap();
    owner.obey(&drain([used[0], unused])).unwrap();
    let (now_used, drained) = (ports(&owner), draining(&mut owner));
    assert_eq!((now_used.len(), drained.len()), (3, 2));
    assert!(now_used.iter().all(|port| !drained.contains(port)), "{now_used:?} {drained:?}");
    owner.obey(&undrain(drained)).unwrap();
    assert_eq!(ports(&owner), used);
}

/// The addresses that the saved list of the first source claims.
fn on_disk(disk: &Disk) -> Vec<u16> {
    let saved = disk.take(&UpstreamName::new("orders")).load().unwrap().unwrap();
    let claims = saved.sources[0].state.claims.iter();
    let mut ports: Vec<u16> = claims.flat_map(|claim| &claim.addresses).map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports
}

/// As it is after it was written and read, with no time in between on the clock of the test.
fn through_a_file(known: &Saved) -> Saved {
    let at = SystemTime::now() + Duration::from_secs(3_600);
    Saved { at, ..Saved::read(known.write().unwrap().get()).unwrap() }
}

/// Another owner that goes on with what this one knows.
fn next(owner: &Owner, registries: &[&str]) -> Owner {
    Owner::new(Plan { known: Some(through_a_file(&owner.saved())), ..plan(registries, None) })
}

fn drained(source: usize, ports: impl IntoIterator<Item = u16>) -> Event {
    let put = |port| ClaimChange::Put(Claim { weight: None, ..labelled(port, &[]) });
    Event::News { source, news: News::Changes(ports.into_iter().map(put).collect()) }
}

#[tokio::test]
async fn an_upstream_that_is_drained_says_so() {
    let mut owner = owner(&["a", "b"]);
    owner.take(news(0, 1..=2));
    assert!(!owner.status.borrow().drained);
    owner.take(drained(0, 1..=2));
    assert!(ports(&owner).is_empty());
    assert!(owner.status.borrow().drained && !owner.status.borrow().is_unknown_service());
    let restarted = next(&owner, &["a", "b"]);
    assert!(ports(&restarted).is_empty() && restarted.status.borrow().drained);
    owner.take(news(1, [3]));
    assert_eq!(ports(&owner), [3]);
    assert!(!owner.status.borrow().drained);
    owner.take(drained(1, [3]));
    assert!(owner.status.borrow().drained);
    owner.take(news(0, []));
    owner.take(news(1, []));
    assert!(ports(&owner).is_empty() && !owner.status.borrow().drained, "what was drained has left");
}

#[tokio::test]
async fn a_weight_that_a_later_registry_tells_counts_while_the_earlier_has_lost_its_list() {
    let mut owner = owner(&["a", "b"]);
    owner.take(news(0, [1]));
    owner.take(news(0, []));
    assert_eq!(ports(&owner), [1]);
    let heavy = Claim { weight: Weight::new(7), ..labelled(1, &[]) };
    owner.take(Event::News { source: 1, news: News::Complete(vec![heavy]) });
    assert_eq!(owner.reader.snapshot().iter().next().unwrap().weight().get(), 700);
}

#[tokio::test]
async fn a_restart_knows_who_was_replaced_and_who_answers() {
    let mut old = owner(&["a"]);
    old.take(news(0, 1..=2));
    old.take(news(0, [2, 11]));
    old.take(news(0, 11..=12));
    assert_eq!(ports(&old), [11, 12]);
    let mut owner = next(&old, &["a"]);
    assert_eq!(ports(&owner), [11, 12], "before the registry answers");
    owner.take(news(0, 11..=12));
    assert_eq!(ports(&owner), [11, 12], "and after");
    (11..=12).for_each(|port| refuse(&mut owner, port, 2));
    assert_eq!(ports(&owner), [1, 2]);
    let mut owner = next(&owner, &["a"]);
    assert_eq!(ports(&owner), [1, 2], "the new ones do not answer, and that is known");
    owner.take(Event::Checked { address: address(11), passed: true });
    assert_eq!(ports(&owner), [11]);
}

#[tokio::test]
async fn another_registry_takes_over_the_list() {
    let mut old = owner(&["a", "b"]);
    old.take(news(0, 1..=4));
    old.take(news(1, [9]));
    let mut owner = next(&old, &["c", "b"]);
    assert_eq!(ports(&owner), [1, 2, 3, 4, 9]);
    owner.take(failed(0));
    assert_eq!(ports(&owner), [1, 2, 3, 4, 9]);
    owner.take(news(0, []));
    assert_eq!(ports(&owner), [1, 2, 3, 4, 9], "a registry that knows nothing is not believed");
    owner.take(news(0, 3..=6));
    assert_eq!(ports(&owner), [3, 4, 5, 6, 9]);

    let mut plan = plan(&["a", "b"], None);
    plan.sources[0].service = "users".into();
    let other = Owner::new(Plan { known: Some(old.saved()), ..plan });
    assert_eq!(ports(&other), [9], "another service is not taken for this one");
}

#[tokio::test]
async fn what_the_operator_writes_in_the_place_of_a_list_applies() {
    let mut old = owner(&["a"]);
    old.take(news(0, 1..=4));
    old.take(news(0, []));
    assert_eq!(ports(&old), [1, 2, 3, 4]);
    let trust = vec![TrustPolicy { as_written: true, ..TrustPolicy::default() }];
    let policies = || watch::channel(Arc::new(Policies { trust: trust.clone(), ..Policies::default() })).1;
    let mut owner =
        Owner::new(Plan { known: Some(old.saved()), policies: policies(), ..plan(&["written"], None) });
    owner.take(news(0, [7]));
    assert_eq!(ports(&owner), [7]);
    let mut owner =
        Owner::new(Plan { known: Some(owner.saved()), policies: policies(), ..plan(&["written"], None) });
    owner.take(news(0, [8]));
    refuse(&mut owner, 8, 5);
    assert_eq!(ports(&owner), [8]);
}

async fn order(events: &mpsc::Sender<Event>, order: Order) -> Result<(), OrderError> {
    let (answer, answered) = oneshot::channel();
    events.send(Event::Command(Command { order, answer })).await.unwrap();
    answered.await.unwrap()
}

/// Runs an owner over these events, then ends it.
async fn lived(disk: &Disk, told: Vec<Event>, orders: &[Order]) {
    let owner = Owner::new(plan(&["a"], Some(disk.clone())));
    let ((events, received), (_reports, reported)) = (mpsc::channel(8), mpsc::channel(8));
    let running = tokio::spawn(owner.run(received, reported));
    for event in told {
        events.send(event).await.unwrap();
    }
    for wanted in orders {
        order(&events, wanted.clone()).await.unwrap();
    }
    drop(events);
    running.await.unwrap();
}

#[tokio::test]
async fn the_last_list_is_restored_until_the_registry_answers() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path());
    lived(&disk, vec![news(0, [1])], &[]).await;

    let mut owner = Owner::new(plan(&["a"], Some(disk)));
    assert_eq!(ports(&owner), [1]);
    assert_eq!(owner.status.borrow().sources[0].origin, Origin::Restored);
    assert!(owner.status.borrow().sources[0].heard.is_some(), "by the gateway before");
    owner.take(failed(0));
    assert_eq!(owner.status.borrow().sources[0].origin, Origin::Restored);
    let before = owner.publisher.generation();
    owner.take(news(0, [1]));
    assert_eq!(owner.publisher.generation(), before, "reconciled without a flap");
    assert_eq!(owner.status.borrow().sources[0].origin, Origin::Live);
}

#[tokio::test(start_paused = true)]
async fn an_order_that_is_refused_leaves_a_save_that_is_due() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path());
    let owner = Owner::new(plan(&["a"], Some(disk.clone())));
    let ((events, received), (_reports, reported)) = (mpsc::channel(8), mpsc::channel(8));
    let running = tokio::spawn(owner.run(received, reported));
    events.send(news(0, 1..=2)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(order(&events, Order::Unpin).await, Err(OrderError::NotPinned));
    }
    let started = tokio::time::Instant::now();
    while !disk.has(&UpstreamName::new("orders")) {
        assert!(started.elapsed() < Duration::from_secs(10), "never written");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(events);
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_refuses_is_tried_seldom_however_much_changes() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    std::fs::write(&state, "in the way").unwrap();
    let mut owner = Owner::new(plan(&["a"], Some(Disk::new(&state))));
    let (mut attempts, started) = (0, tokio::time::Instant::now());
    // As its loop does.
    while started.elapsed() < Duration::from_secs(600) {
        owner.take(news(0, [1, 2, 3 + attempts]));
        owner.plan_to_write();
        if owner.due.is_some_and(|due| due <= tokio::time::Instant::now()) {
            let why = owner.save().await.unwrap_err();
            assert!(why.contains("make the folder"), "{why}");
            attempts += 1;
        }
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    let fewest = 600 / SAVE_AGAIN_MOST.as_secs() as u16;
    assert!((fewest..=2 * fewest + 10).contains(&attempts), "{attempts} attempts in ten minutes");
    std::fs::remove_file(&state).unwrap();
    tokio::time::advance(SAVE_AGAIN_MOST).await;
    assert!(owner.due.is_some_and(|due| due <= tokio::time::Instant::now()));
    owner.save().await.unwrap();
}

#[tokio::test]
async fn an_owner_that_was_replaced_writes_nothing_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path());
    let old = Owner::new(plan(&["a"], Some(disk.clone())));
    let ((events, received), (_reports, reported)) = (mpsc::channel(8), mpsc::channel(8));
    let running = tokio::spawn(old.run(received, reported));
    events.send(news(0, 1..=2)).await.unwrap();
    let (next, known) = oneshot::channel();
    events.send(Event::HandOver(next)).await.unwrap();
    let known = Some(known.await.unwrap());
    let mut new = Owner::new(Plan { known, ..plan(&["a"], Some(disk.clone())) });
    assert_eq!(ports(&new), [1, 2], "though nothing was on disk");
    assert!(new.due.is_some(), "and it will be");
    new.take(news(0, 1..=3));
    new.save().await.unwrap();
    events.send(news(0, [7])).await.unwrap();
    let ordered = order(&events, Order::Pin).await;
    assert!(matches!(ordered, Err(OrderError::NotSaved(_))), "whoever ordered has to know: {ordered:?}");
    drop(events);
    running.await.unwrap();
    drop(new);
    assert_eq!(on_disk(&disk), [1, 2, 3]);
}

#[tokio::test]
async fn a_reserve_and_a_pin_outlive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path());
    lived(&disk, vec![news(0, 1..=2), news(0, [])], &[]).await;
    lived(&disk, vec![news(0, [])], &[Order::Pin]).await;

    let mut owner = Owner::new(plan(&["a"], Some(disk)));
    assert_eq!(ports(&owner), [1, 2]);
    assert_eq!(owner.status.borrow().pin.map(|pin| pin.endpoints), Some(2));
    assert_eq!(owner.status.borrow().sources[0].reserve.len(), 2);
    owner.take(news(0, 7..=9));
    assert_eq!(ports(&owner), [1, 2]);
    owner.obey(&Order::Unpin).unwrap();
    assert_eq!(ports(&owner), [7, 8, 9]);
}

#[tokio::test]
async fn a_disk_that_fails_is_told_and_harms_nobody() {
    let mut owner = Owner::new(plan(&["a"], Some(Disk::new(std::path::Path::new("/proc")))));
    owner.take(news(0, 1..=2));
    assert!(owner.save().await.is_err());
    assert!(owner.status.borrow().unsaved.is_some());
    assert_eq!(ports(&owner), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_could_not_be_saved_is_saved_once_it_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    std::fs::write(&state, "no folder").unwrap();
    let disk = Disk::new(&state);
    let owner = Owner::new(plan(&["a"], Some(disk.clone())));
    let mut status = owner.status();
    let ((events, received), (_reports, reported)) = (mpsc::channel(8), mpsc::channel(8));
    let running = tokio::spawn(owner.run(received, reported));
    events.send(news(0, 1..=2)).await.unwrap();
    status.wait_for(|status| status.unsaved.is_some()).await.unwrap();
    std::fs::remove_file(&state).unwrap();
    // Nothing else happens: it is tried again by itself.
    status.wait_for(|status| status.unsaved.is_none()).await.unwrap();
    drop(events);
    running.await.unwrap();
    assert_eq!(on_disk(&disk), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_nobody_vouches_for_becomes_an_alarm() {
    let trust = vec![TrustPolicy { max_stale: Duration::ZERO, ..TrustPolicy::default() }];
    let policies = Arc::new(Policies { trust, ..Policies::default() });
    let mut owner = Owner::new(Plan { policies: watch::channel(policies).1, ..plan(&["a"], None) });
    owner.take(news(0, 1..=2));
    let later = SystemTime::now() + Duration::from_secs(1);
    assert!(!owner.status.borrow().sources[0].is_stale(later), "live");
    owner.take(failed(0));
    assert!(owner.status.borrow().sources[0].is_stale(later));
    assert_eq!(ports(&owner), [1, 2]);
}

fn weight_of(reader: &Reader, port: u16) -> Option<u32> {
    let snapshot = reader.snapshot();
    snapshot.iter().find(|member| member.address().port() == port).map(|member| member.weight().get())
}

fn offering(offer: OfferPolicy) -> watch::Sender<Arc<Policies>> {
    watch::Sender::new(Arc::new(Policies { offer, ..Policies::default() }))
}

#[tokio::test(start_paused = true)]
async fn a_slow_start_goes_on_by_itself_in_ten_steps_however_many_start() {
    let slow = OfferPolicy { slow_start: Some(Duration::from_secs(90)), ..OfferPolicy::default() };
    let policies = offering(slow);
    let mut owner = Owner::new(Plan { policies: policies.subscribe(), ..plan(&["a"], None) });
    owner.take(news(0, 1..=200));
    let reader = owner.reader();
    assert_eq!(reader.snapshot().generation(), 1);
    let (_, mut generations) = reader.follow();
    let ((events, received), (_reports, reported)) = (mpsc::channel(8), mpsc::channel(8));
    let running = tokio::spawn(owner.run(received, reported));
    events.send(news(0, 1..=300)).await.unwrap();
    let began = tokio::time::Instant::now();
    let mut weights = Vec::new();
    for generation in 2..=11 {
        generations.wait_for(|newest| *newest >= generation).await.unwrap();
        assert_eq!((weight_of(&reader, 1), weight_of(&reader, 201)), (Some(100), weight_of(&reader, 300)));
        weights.extend(weight_of(&reader, 300));
    }
    assert_eq!(weights, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
    assert_eq!(began.elapsed().as_secs(), 90);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(reader.snapshot().generation(), 11, "then nothing is left to do");
    drop(events);
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_starts_slowly_has_the_latency_of_the_others() {
    let slow = OfferPolicy { slow_start: Some(Duration::from_secs(90)), ..OfferPolicy::default() };
    let policies = offering(slow);
    let mut owner = Owner::new(Plan { policies: policies.subscribe(), ..plan(&["a"], None) });
    owner.take(news(0, 1..=2));
    let stats = |port: u16| {
        let snapshot = owner.reader.snapshot();
        snapshot
            .iter()
            .find(|member| member.address().port() == port)
            .map(|member| member.stats().clone())
            .unwrap()
    };
    stats(1).record(now(), Duration::from_millis(10), true);
    stats(2).record(now(), Duration::from_millis(30), true);
    owner.take(news(0, 1..=3));
    let snapshot = owner.reader.snapshot();
    let new = snapshot.iter().find(|member| member.address().port() == 3).unwrap();
    assert_eq!((new.stats().latency_ns(), new.stats().has_answered()), (20_000_000, false));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_uses_some_of_many_and_replaces_who_fails() {
    let subset = Subset { place: 0, size: 10 };
    let policies = offering(OfferPolicy { subset: Some(subset), ..OfferPolicy::default() });
    let mut owner = Owner::new(Plan { policies: policies.subscribe(), ..plan(&["a"], None) });
    owner.take(news(0, 1..=100));
    let used = ports(&owner);
    assert_eq!((used.len(), owner.status.borrow().unused), (10, 90));
    tokio::time::advance(Duration::from_secs(60)).await;
    refuse(&mut owner, used[0], 2);
    let replaced = ports(&owner);
    assert_eq!(replaced.len(), 10);
    assert!(used[1..].iter().all(|port| replaced.contains(port)) && !replaced.contains(&used[0]));
    tokio::time::advance(Duration::from_secs(11)).await;
    owner.tick();
    assert_eq!(ports(&owner), used, "it came back");

    // Orders concern the whole list.
    owner.obey(&Order::Pin).unwrap();
    owner.take(news(0, 51..=150));
    assert_eq!((ports(&owner), owner.pin.as_ref().unwrap().list.len()), (used, 100));
    owner.obey(&Order::Unpin).unwrap();
    assert_eq!((ports(&owner).len(), owner.listed().len()), (10, 100));

    // Another setting is in force at once.
    let reader = owner.reader();
    let (_, mut generations) = reader.follow();
    let ((events, received), (_reports, reported)) = (mpsc::channel(8), mpsc::channel(8));
    let running = tokio::spawn(owner.run(received, reported));
    policies.send_replace(Arc::default());
    generations.wait_for(|_| reader.snapshot().len() == 100).await.unwrap();
    drop(events);
    running.await.unwrap();
}

/// What may happen to an upstream, in small numbers so that sequences meet.
#[derive(Debug, Clone)]
enum Happening {
    News(BTreeSet<u16>),
    Drained(u16),
    Failed,
    Told(u16, Evidence),
    Checked(u16, bool),
    Pass(u64),
    Pin,
    Unpin,
    Drain(u16),
    Undrain(u16),
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    let port = || 1u16..7;
    let evidence = prop_oneof![
        3 => Just(Evidence::ConnectFailed),
        2 => Just(Evidence::Answered),
        1 => Just(Evidence::TimedOut),
        1 => Just(Evidence::GatewayError),
    ];
    prop_oneof![
        4 => prop::collection::btree_set(port(), 0..6).prop_map(News),
        1 => port().prop_map(Drained),
        1 => Just(Failed),
        8 => (port(), evidence).prop_map(|(port, evidence)| Told(port, evidence)),
        4 => (port(), any::<bool>()).prop_map(|(port, passed)| Checked(port, passed)),
        4 => prop_oneof![1u64..5, 5u64..100].prop_map(Pass),
        1 => Just(Pin),
        1 => Just(Unpin),
        1 => port().prop_map(Drain),
        1 => port().prop_map(Undrain),
    ]
}

/// To all of these at once, on a clock that they share.
async fn happen(owners: &mut [&mut Owner], happening: &Happening) {
    if let Happening::Pass(seconds) = happening {
        tokio::time::advance(Duration::from_secs(*seconds)).await;
    }
    for owner in owners {
        match happening {
            Happening::News(ports) => owner.take(news(0, ports.iter().copied())),
            Happening::Drained(port) => owner.take(drained(0, [*port])),
            Happening::Failed => owner.take(failed(0)),
            Happening::Told(port, evidence) => {
                owner.report(Report { address: address(*port), evidence: *evidence });
            }
            Happening::Checked(port, passed) => {
                owner.take(Event::Checked { address: address(*port), passed: *passed });
            }
            Happening::Pass(_) => owner.tick(),
            Happening::Pin => owner.obey(&Order::Pin).unwrap(),
            Happening::Unpin => drop(owner.obey(&Order::Unpin)),
            // Of those that are known, and of those that drain.
            Happening::Drain(port) => drop(owner.obey(&drain([*port]))),
            Happening::Undrain(port) => drop(owner.obey(&undrain([*port]))),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// At any point of any sequence of news, failures, evidence, time and orders: an owner that goes on with what another
    /// knew gives requests the same endpoints, then and later.
    #[test]
    fn a_restart_changes_nothing_for_requests(
        before in prop::collection::vec(happening(), 1..40), after in prop::collection::vec(happening(), 1..40),
        size in prop::option::of(1usize..5),
    ) {
        let subset = size.map(|size| Subset { place: 1 << 63, size });
        let policies = offering(OfferPolicy { subset, ..OfferPolicy::default() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let plan = || Plan { policies: policies.subscribe(), ..plan(&["a"], None) };
            let mut owner = Owner::new(plan());
            for happening in &before {
                happen(&mut [&mut owner], happening).await;
            }
            let mut restarted = Owner::new(Plan { known: Some(through_a_file(&owner.saved())), ..plan() });
            prop_assert_eq!(ports(&owner), ports(&restarted), "before the registry answers");
            let claims: Vec<Claim> = owner.sources[0].claims().cloned().collect();
            for owner in [&mut owner, &mut restarted] {
                owner.take(Event::News { source: 0, news: News::Complete(claims.clone()) });
            }
            for happening in &after {
                prop_assert_eq!(ports(&owner), ports(&restarted), "before {:?}", happening);
                happen(&mut [&mut owner, &mut restarted], happening).await;
            }
            prop_assert_eq!(ports(&owner), ports(&restarted));
            Ok(())
        })?;
    }
}
