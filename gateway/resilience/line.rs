//! The requests of one worker that wait at the gate of an upstream, in the order in which they came.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::gate::{Gate, Permit};

/// So many have a turn when a request has ended, while those before them find no endpoint: each costs picks.
const TURNS: u32 = 4;

/// One line per worker and upstream. Never leaves its thread.
pub struct Line {
    gate: Arc<Gate>,
    worker: usize,
    /// By ticket, each with whom to wake.
    waiting: RefCell<BTreeMap<u64, Option<Waker>>>,
    /// How many had a turn in vain since so many requests had ended.
    in_vain: Cell<(u64, u32)>,
}

/// The place of one request in a line. Dropping it leaves the line, and whoever comes next moves up.
pub struct Place {
    line: Rc<Line>,
    ticket: u64,
    /// How many requests had ended when it had its turn in vain.
    in_vain: Option<u64>,
}

impl Line {
    pub fn new(gate: Arc<Gate>, worker: usize) -> Self {
        Self { gate, worker, waiting: RefCell::default(), in_vain: Cell::default() }
    }

    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// A place at the end of the line, unless so many wait on all workers already.
    pub fn join(self: &Rc<Self>, most: u32) -> Option<Place> {
        let ticket = self.gate.join(most)?;
        let is_first = self.waiting.borrow().is_empty();
        self.waiting.borrow_mut().insert(ticket, None);
        if is_first {
            self.gate.set_first(self.worker, Some(ticket));
        }
        Some(Place { line: self.clone(), ticket, in_vain: None })
    }

    fn is_first(&self, ticket: u64) -> bool {
        self.waiting.borrow().first_key_value().is_some_and(|(first, _)| *first == ticket)
    }

    /// Somebody else is first now, or nobody.
    fn move_up(&self) {
        let waiting = self.waiting.borrow();
        let first = waiting.first_key_value();
        self.gate.set_first(self.worker, first.map(|(ticket, _)| *ticket));
        if let Some((_, Some(waker))) = first {
            waker.wake_by_ref();
        }
    }
}

impl Place {
    /// Waits until it is first in its line and a request may go. The place stays in the line until it is dropped.
    pub fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<Permit> {
        let Self { line, ticket, in_vain } = self;
        if line.is_first(*ticket) {
            line.gate.remember(line.worker, cx.waker());
            let (ended, (before, turns)) = (line.gate.ended(), line.in_vain.get());
            let may = *in_vain != Some(ended) && (before != ended || turns < TURNS);
            if let Some(permit) = may.then(|| line.gate.take()).flatten() {
                return Poll::Ready(permit);
            }
        }
        line.waiting.borrow_mut().insert(*ticket, Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Goes to the end of the line, because no endpoint that suits has room: others may have more luck.
    pub fn step_back(&mut self, permit: Permit) {
        let Self { line, ticket, in_vain } = self;
        *in_vain = Some(permit.ended);
        let (before, turns) = line.in_vain.get();
        line.in_vain.set((permit.ended, if before == permit.ended { turns + 1 } else { 1 }));
        line.waiting.borrow_mut().remove(ticket);
        *ticket = line.gate.ticket();
        line.waiting.borrow_mut().insert(*ticket, None);
        line.move_up();
        permit.give_back();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Self { line, ticket, .. } = self;
        let was_first = line.is_first(*ticket);
        line.waiting.borrow_mut().remove(ticket);
        line.gate.left();
        if was_first {
            line.move_up();
            // It may have been woken for a place that it did not take.
            line.gate.call();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicU32, Ordering::SeqCst},
        time::Duration,
    };

    use tokio::task::LocalSet;

    use super::*;
    use crate::resilience::aimd::Bounds;

    const LONG: Duration = Duration::from_secs(30);

    fn gate(limit: u32, workers: usize) -> Arc<Gate> {
        Arc::new(Gate::new(Bounds { min: limit, max: limit }, workers))
    }

    fn look(place: &Place) -> Option<Permit> {
        match place.poll_turn(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        }
    }

    async fn turn(place: &Place) -> Permit {
        poll_fn(|cx| place.poll_turn(cx)).await
    }

    #[test]
    fn who_came_first_goes_first() {
        let gate = gate(1, 1);
        let line = Rc::new(Line::new(gate.clone(), 0));
        let running = gate.enter().unwrap();
        let (first, second) = (line.join(10).unwrap(), line.join(10).unwrap());
        assert!(look(&first).is_none() && look(&second).is_none());
        drop(running);
        assert!(gate.enter().is_none(), "nobody passes those that wait");
        assert!(look(&second).is_none());
        let running = look(&first).unwrap();
        drop(first);
        assert!(look(&second).is_none());
        drop(running);
        let running = look(&second).unwrap();
        drop((second, running));
        assert_eq!((gate.waiting(), gate.in_flight()), (0, 0));
        assert!(gate.enter().is_some());
    }

    #[test]
    fn a_line_takes_so_many_and_no_more() {
        let gate = gate(1, 2);
        let (one, other) = (Rc::new(Line::new(gate.clone(), 0)), Rc::new(Line::new(gate, 1)));
        let places = (one.join(2), other.join(2));
        assert!(places.0.is_some() && places.1.is_some() && one.join(2).is_none());
        drop(places);
        assert!(one.join(1).is_some());
    }

    #[test]
    fn who_finds_no_endpoint_holds_up_nobody_and_is_asked_again_when_another_request_ends() {
        let gate = gate(2, 1);
        let line = Rc::new(Line::new(gate.clone(), 0));
        let (running, ends) = (gate.enter().unwrap(), gate.enter().unwrap());
        let (mut first, second) = (line.join(10).unwrap(), line.join(10).unwrap());
        drop(ends);
        let permit = look(&first).unwrap();
        first.step_back(permit);
        let permit = look(&second).unwrap();
        drop(second);
        assert!(look(&first).is_none());
        drop(permit);
        let permit = look(&first).unwrap();
        first.step_back(permit);
        assert!(look(&first).is_none());
        assert!(gate.enter().is_some(), "it may suit somebody who comes now");
        drop((running, first));
        assert_eq!((gate.waiting(), gate.in_flight()), (0, 0));
    }

    #[test]
    fn who_waits_in_vain_looks_again_when_somebody_else_finds_an_endpoint() {
        let gate = gate(3, 1);
        let line = Rc::new(Line::new(gate.clone(), 0));
        let _running = gate.enter().unwrap();
        let mut place = line.join(10).unwrap();
        let permit = look(&place).unwrap();
        place.step_back(permit);
        assert!(look(&place).is_none());
        // A new one was registered, say.
        let other = gate.enter().unwrap();
        other.made_use();
        assert!(look(&place).is_some());
    }

    #[test]
    fn a_few_have_a_turn_in_vain_and_then_nobody_until_another_request_ends() {
        let gate = gate(2, 1);
        let line = Rc::new(Line::new(gate.clone(), 0));
        let (_running, ends) = (gate.enter().unwrap(), gate.enter().unwrap());
        let mut places: Vec<_> = (0..10).map(|_| line.join(10).unwrap()).collect();
        drop(ends);
        let mut turns = 0;
        while let Some((place, permit)) =
            places.iter_mut().find_map(|place| look(place).map(|permit| (place, permit)))
        {
            place.step_back(permit);
            turns += 1;
        }
        assert_eq!(turns, TURNS);
    }

    #[tokio::test]
    async fn one_that_leaves_the_line_passes_its_turn_on() {
        let gate = gate(1, 1);
        let line = Rc::new(Line::new(gate.clone(), 0));
        let running = gate.enter().unwrap();
        let (first, second) = (line.join(10).unwrap(), line.join(10).unwrap());
        assert!(look(&first).is_none());
        let waiting = async {
            let permit = turn(&second).await;
            drop(second);
            permit
        };
        let leaving = async {
            drop(running);
            drop(first);
        };
        let both = async { tokio::join!(waiting, leaving) };
        tokio::time::timeout(LONG, both).await.expect("the second has its turn");
    }

    #[tokio::test]
    async fn a_limit_that_is_raised_lets_somebody_go() {
        let gate = gate(1, 1);
        let line = Rc::new(Line::new(gate.clone(), 0));
        let _running = gate.enter().unwrap();
        let place = line.join(10).unwrap();
        let raising = async { gate.set_bounds(Bounds { min: 2, max: 2 }) };
        let both = async { tokio::join!(turn(&place), raising) };
        tokio::time::timeout(LONG, both).await.expect("it has its turn");
    }

    /// Each thread is a worker. Whatever ends on one must let go who waits on another.
    #[test]
    fn nobody_is_forgotten_and_never_are_there_too_many() {
        const WORKERS: usize = 4;
        const LIMIT: u32 = 3;
        let (gate, most) = (gate(LIMIT, WORKERS), Arc::new(AtomicU32::new(0)));
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let (gate, most) = (&gate, &most);
                scope.spawn(move || {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                    let line = Rc::new(Line::new(gate.clone(), worker));
                    let tasks = LocalSet::new();
                    for number in 0..500u32 {
                        let (line, gate, most) = (line.clone(), gate.clone(), most.clone());
                        tasks.spawn_local(async move {
                            if number % 7 == 0 {
                                // A client that does not wait for long.
                                let place = line.join(u32::MAX).unwrap();
                                let _ = tokio::time::timeout(Duration::from_micros(10), turn(&place)).await;
                                return;
                            }
                            let permit = match gate.enter() {
                                Some(permit) => permit,
                                None => turn(&line.join(u32::MAX).unwrap()).await,
                            };
                            most.fetch_max(gate.in_flight(), SeqCst);
                            tokio::task::yield_now().await;
                            drop(permit);
                        });
                    }
                    let all = runtime.block_on(async { tokio::time::timeout(LONG, tasks).await });
                    assert!(all.is_ok(), "{gate:?}");
                });
            }
        });
        assert!((1..=LIMIT).contains(&most.load(SeqCst)), "{most:?}");
        assert_eq!((gate.waiting(), gate.in_flight()), (0, 0));
    }
}
