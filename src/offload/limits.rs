//! A stand-in.
#![allow(dead_code)]
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Waker;

#[derive(Debug)]
pub struct CapacityLimiter {
    free: AtomicI64,
    waiting: Mutex<Vec<Waker>>,
}

#[derive(Debug)]
pub(crate) struct Ticket;

impl CapacityLimiter {
    pub fn new(total: usize) -> Self {
        Self { free: AtomicI64::new(total as i64), waiting: Mutex::default() }
    }
    pub(crate) fn try_take(&self) -> bool {
        let mut free = self.free.load(Ordering::SeqCst);
        while free > 0 {
            match self.free.compare_exchange(free, free - 1, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return true,
                Err(now) => free = now,
            }
        }
        false
    }
    pub(crate) fn join(&self, waker: &Waker) -> Result<(), Ticket> {
        let mut waiting = self.waiting.lock().unwrap();
        if self.try_take() {
            return Ok(());
        }
        waiting.push(waker.clone());
        Err(Ticket)
    }
    /// Some: it holds one.
    pub(crate) fn ask(&self, ticket: &mut Option<Ticket>, waker: &Waker) -> bool {
        let Some(_) = ticket else { return false };
        match self.join(waker) {
            Ok(()) => {
                *ticket = None;
                true
            }
            Err(_) => false,
        }
    }
    pub(crate) fn leave(&self, _: Ticket) {}
    pub(crate) fn give_back(&self) {
        self.free.fetch_add(1, Ordering::SeqCst);
        let wakers = std::mem::take(&mut *self.waiting.lock().unwrap());
        wakers.into_iter().for_each(Waker::wake);
    }
    pub(crate) fn must_yield(&self) -> bool {
        !self.waiting.lock().unwrap().is_empty() || self.free.load(Ordering::SeqCst) < 0
    }
    pub(crate) fn available(&self) -> i64 {
        self.free.load(Ordering::SeqCst)
    }
}
