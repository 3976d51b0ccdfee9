//! [`KeyGate`], a caller's way to the lane of its key.

use std::hash::Hash;
use std::mem;
use std::ops::Deref;
use std::task::Waker;

use tokio::time::Instant;

use super::keyed_guard::KeyedGuard;
use super::shard::Shard;
use crate::guard::core::{Core, Gate, OwnedGate};
use crate::guard::key_map::{Hash64, Spot};
use crate::guard::scope::ScopeId;
use crate::guard::shared::SharedKeyedGuard;
use crate::semaphore::{CancelOutcome, EnqueueOutcome, Refused, WaitOutcome, WaiterId};

/// A guard and one of its keys.
#[derive(Debug)]
pub(crate) struct KeyGate<K, G> {
    guard: G,
    place: Place<K>,
}

/// Where the caller stands.
#[derive(Debug)]
enum Place<K> {
    /// Not yet in a lane.
    Before { key: K },
    /// In the lane at that spot: in its queue, or holding one of its permits.
    In(Spot),
    /// No more: so many were waiting still.
    After { waiting: usize },
}

impl<K, G> KeyGate<K, G>
where
    K: Hash + Eq,
    G: Deref<Target = KeyedGuard<K>>,
{
    #[inline]
    pub(crate) fn new(guard: G, key: K) -> Self {
        Self { guard, place: Place::Before { key } }
    }

    /// Looks its key up in the shard, where it is handed over if it is a new one.
    #[inline]
    fn arrive<R>(
        &mut self,
        enter: impl FnOnce(&KeyedGuard<K>, &Shard<K>, Hash64, &mut Option<K>) -> Result<(u32, R), Refused>,
    ) -> Result<R, Refused> {
        let Place::Before { key } = mem::replace(&mut self.place, Place::After { waiting: 0 }) else {
            unreachable!("a caller arrives once")
        };
        let keys = self.guard.keys();
        let (hash, shard) = keys.locate(&key);
        let mut key = Some(key);
        match enter(&self.guard, keys.shard(shard), hash, &mut key) {
            Ok((index, result)) => {
                self.place = Place::In(Spot::new(shard, index));
                Ok(result)
            }
            Err(refused) => {
                if let Some(key) = key {
                    self.place = Place::Before { key };
                }
                Err(refused)
            }
        }
    }

    #[inline]
    fn spot(&self) -> Option<(Spot, &Shard<K>)> {
        match &self.place {
            Place::In(spot) => Some((*spot, self.guard.keys().shard(spot.shard()))),
            _ => None,
        }
    }

    fn in_lane(&self) -> (Spot, &Shard<K>) {
        self.spot().expect("a caller with a ticket or a permit is in a lane")
    }
}

impl<K, G> Gate for KeyGate<K, G>
where
    K: Hash + Eq,
    G: Deref<Target = KeyedGuard<K>>,
{
    #[inline]
    fn core(&self) -> &Core {
        &self.guard.core
    }

    fn permits(&self) -> usize {
        self.guard.rules.permits
    }

    fn waiting(&self) -> usize {
        match &self.place {
            Place::Before { key } => {
                let keys = self.guard.keys();
                let (hash, shard) = keys.locate(key);
                keys.shard(shard).waiting_for(hash, key)
            }
            Place::After { waiting } => *waiting,
            Place::In(_) => 0,
        }
    }

    #[inline]
    fn try_enter(&mut self) -> Result<(), Refused> {
        self.arrive(|guard, shard, hash, key| shard.try_enter(guard.terms(), hash, key).map(|index| (index, ())))
    }

    fn join(&mut self, waker: &Waker) -> EnqueueOutcome {
        match self.arrive(|guard, shard, hash, key| shard.join(guard.terms(), hash, key, waker)) {
            Ok(joined) => joined,
            Err(refused) => EnqueueOutcome::Refused(refused),
        }
    }

    fn ask(&mut self, ticket: &mut Option<WaiterId>, waker: &Waker) -> Option<WaitOutcome> {
        let (spot, shard) = self.in_lane();
        let answer = shard.ask(self.guard.terms(), spot.index(), ticket, waker);
        if matches!(answer, Some(WaitOutcome::Expired | WaitOutcome::Closed)) {
            self.place = Place::After { waiting: 0 };
        }
        answer
    }

    fn give_up(&mut self, ticket: WaiterId) -> Option<WaitOutcome> {
        let (spot, shard) = self.in_lane();
        let (answer, waiting) = shard.give_up(self.guard.terms(), spot.index(), ticket);
        if answer != Some(WaitOutcome::Entered) {
            self.place = Place::After { waiting };
        }
        answer
    }

    fn leave(&mut self, ticket: WaiterId) -> CancelOutcome {
        let (spot, shard) = self.in_lane();
        let gone = shard.leave(self.guard.terms(), spot.index(), ticket, self.core().grant_stamp());
        self.place = Place::After { waiting: 0 };
        gone
    }

    #[inline]
    fn exit(&mut self) -> bool {
        let (spot, shard) = self.in_lane();
        let is_closed = shard.exit(self.guard.terms(), spot.index(), || self.core().grant_stamp());
        is_closed && self.guard.is_drained()
    }

    fn expire_grants(&mut self, limit: Instant, now: Instant) -> (usize, Option<Instant>) {
        let (spot, shard) = match (&self.place, self.spot()) {
            (_, Some(found)) => found,
            (Place::Before { key }, None) => {
                let keys = self.guard.keys();
                let (hash, number) = keys.locate(key);
                let shard = keys.shard(number);
                return shard.expire_for(self.guard.terms(), hash, key, limit, now);
            }
            _ => return (0, None),
        };
        shard.expire_grants(self.guard.terms(), spot.index(), limit, now)
    }

    fn is_closed(&self) -> bool {
        self.guard.is_closed()
    }

    fn is_drained(&self) -> bool {
        self.guard.is_drained()
    }

    fn scope(&self) -> Option<ScopeId> {
        let keys = self.guard.keys();
        let spot = match &self.place {
            Place::In(spot) => *spot,
            Place::Before { key } => {
                let (hash, shard) = keys.locate(key);
                Spot::new(shard, keys.shard(shard).find(hash, key)?)
            }
            Place::After { .. } => return None,
        };
        let guard: &KeyedGuard<K> = &self.guard;
        Some((std::ptr::from_ref(guard).addr(), spot.to_bits()))
    }
}

impl<K> OwnedGate for KeyGate<K, SharedKeyedGuard<K>>
where
    K: Hash + Eq + Send + 'static,
{
    type Guard = SharedKeyedGuard<K>;

    fn guard(&self) -> Self::Guard {
        self.guard.clone()
    }
}
