//! The connections that one upstream has open, over all cores. A core's idle ones are of no use to another core, so when the
//! limit is reached an idle one gives its place up: only connections in use keep a new one out.
//!
//! Knows no sockets: whoever holds a [`Seat`] says when it rests, and ends when it is asked to.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

/// A count of open connections and who of them rests. Cheap to clone; all clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    places: Mutex<Places>,
    /// How many seats rest: none, and nobody needs to be looked for.
    resting: AtomicU32,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    taken: HashMap<u64, Arc<Mutex<State>>>,
    /// Who waits for a place.
    waiting: Vec<Waker>,
}

#[derive(Debug)]
enum State {
    Busy,
    /// With whom to wake, once somebody watches it.
    Resting(Option<Waker>),
    /// Asked to go, and about to.
    Leaving,
}

/// One open connection; its place is free again when this is dropped.
#[derive(Debug)]
pub struct Seat {
    id: u64,
    state: Arc<Mutex<State>>,
    home: Arc<Inner>,
}

/// What becomes of a connection that has nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    Stay,
    /// Its place is needed: it is to end.
    Leave,
}

impl Connections {
    /// A place among `most`. While one that rests is on its way out this waits for it; `None`: all are in use.
    pub fn poll_enter(&self, most: u32, cx: &mut Context<'_>) -> Poll<Option<Seat>> {
        let mut places = lock(&self.0.places);
        if places.taken.len() < most as usize {
            return Poll::Ready(Some(self.take(&mut places)));
        }
        let asked = self.ask_one_to_leave(&places);
        if asked.is_none() && !places.taken.values().any(|one| matches!(*lock(one), State::Leaving)) {
            return Poll::Ready(None);
        }
        places.waiting.push(cx.waker().clone());
        drop(places);
        asked.flatten().into_iter().for_each(Waker::wake);
        Poll::Pending
    }

    pub fn get(&self) -> u32 {
        u32::try_from(lock(&self.0.places).taken.len()).unwrap_or(u32::MAX)
    }

    fn take(&self, places: &mut Places) -> Seat {
        let (id, state) = (places.next, Arc::new(Mutex::new(State::Busy)));
        places.next += 1;
        places.taken.insert(id, state.clone());
        Seat { id, state, home: self.0.clone() }
    }

    /// `Some`: one goes; with whom to wake for it.
    fn ask_one_to_leave(&self, places: &Places) -> Option<Option<Waker>> {
        if self.0.resting.load(Relaxed) == 0 {
            return None;
        }
        places.taken.values().find_map(|one| {
            let mut state = lock(one);
            let State::Resting(waker) = &mut *state else { return None };
            let waker = waker.take();
            *state = State::Leaving;
            self.0.resting.fetch_sub(1, Relaxed);
            Some(waker)
        })
    }
}

impl Seat {
    /// Its work is done: it rests as soon as somebody watches it, or ends. Whoever was answered may ask again before that.
    pub fn done(&self) {
        let mut state = lock(&self.state);
        if matches!(*state, State::Busy) {
            self.home.resting.fetch_add(1, Relaxed);
            *state = State::Resting(None);
        }
    }

    /// Nothing is to be done on this connection. The task of `cx` is woken if its place is needed later.
    pub fn rest(&self, cx: &Context<'_>) -> Rest {
        self.done();
        match &mut *lock(&self.state) {
            State::Leaving => return Rest::Leave,
            State::Resting(waker) => *waker = Some(cx.waker().clone()),
            State::Busy => {}
        }
        Rest::Stay
    }

    /// It has something to do. If it was just asked to leave, whoever waits for its place must look for another.
    pub fn work(&self) {
        let before = std::mem::replace(&mut *lock(&self.state), State::Busy);
        match before {
            State::Busy => {}
            State::Resting(_) => _ = self.home.resting.fetch_sub(1, Relaxed),
            State::Leaving => {
                let waiting = std::mem::take(&mut lock(&self.home.places).waiting);
                waiting.into_iter().for_each(Waker::wake);
            }
        }
    }
}

impl Drop for Seat {
    /// Whoever waits is woken when the place is free, and not before: it would find all in use.
    fn drop(&mut self) {
        let waiting = {
            let mut places = lock(&self.home.places);
            places.taken.remove(&self.id);
            std::mem::take(&mut places.waiting)
        };
        if matches!(*lock(&self.state), State::Resting(_)) {
            self.home.resting.fetch_sub(1, Relaxed);
        }
        waiting.into_iter().for_each(Waker::wake);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        task::Wake,
    };

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn bell() -> (Arc<Bell>, Waker) {
        let bell = Arc::<Bell>::default();
        (bell.clone(), bell.into())
    }

    fn entered(connections: &Connections, most: u32) -> Option<Seat> {
        match connections.poll_enter(most, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(seat) => seat,
            Poll::Pending => panic!("it waits"),
        }
    }

    #[test]
    fn so_many_are_open_and_no_more_while_all_are_in_use() {
        let connections = Connections::default();
        let held: Vec<_> = (0..3).map_while(|_| entered(&connections, 2)).collect();
        assert_eq!((held.len(), connections.get()), (2, 2));
        drop(held);
        assert!(entered(&connections, 1).is_some());
        assert_eq!(connections.get(), 0);
    }

    #[test]
    fn one_that_rests_gives_its_place_to_one_that_is_needed() {
        let connections = Connections::default();
        let (resting, pool) = bell();
        let idle = entered(&connections, 1).unwrap();
        assert_eq!(idle.rest(&Context::from_waker(&pool)), Rest::Stay);
        let (waiting, waker) = bell();
        let mut cx = Context::from_waker(&waker);
        assert!(connections.poll_enter(1, &mut cx).is_pending());
        assert_eq!(resting.0.load(SeqCst), 1, "it is woken");
        assert_eq!(idle.rest(&Context::from_waker(&pool)), Rest::Leave);
        drop(idle);
        assert_eq!(waiting.0.load(SeqCst), 1);
        assert!(matches!(connections.poll_enter(1, &mut cx), Poll::Ready(Some(_))));
    }

    #[test]
    fn one_that_gets_work_just_before_it_goes_stays_and_whoever_waits_learns_it() {
        let connections = Connections::default();
        let seat = entered(&connections, 1).unwrap();
        let here = Context::from_waker(Waker::noop());
        assert_eq!(seat.rest(&here), Rest::Stay);
        let (waiting, waker) = bell();
        assert!(connections.poll_enter(1, &mut Context::from_waker(&waker)).is_pending());
        seat.work();
        assert_eq!(waiting.0.load(SeqCst), 1);
        assert!(entered(&connections, 1).is_none(), "all are in use");
        assert_eq!(seat.rest(&here), Rest::Stay);
    }

    #[test]
    fn one_whose_work_is_done_goes_though_nobody_watches_it_yet() {
        let connections = Connections::default();
        let seat = entered(&connections, 1).unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(entered(&connections, 1).is_none());
        seat.done();
        assert!(connections.poll_enter(1, &mut cx).is_pending());
        assert_eq!(seat.rest(&cx), Rest::Leave);
    }

    #[test]
    fn one_that_works_again_is_left_alone() {
        let connections = Connections::default();
        let seat = entered(&connections, 1).unwrap();
        assert_eq!(seat.rest(&Context::from_waker(Waker::noop())), Rest::Stay);
        seat.work();
        assert!(entered(&connections, 1).is_none());
    }
}
