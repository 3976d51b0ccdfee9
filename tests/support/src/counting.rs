//! The allocator of a test binary that counts bytes and allocations: by thread, so that tests don't see each other, and
//! those of the whole process.

#![allow(unsafe_code, reason = "a global allocator can't be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicIsize, Ordering};

thread_local! {
    static LIVE_BYTES: Cell<isize> = const { Cell::new(0) };
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

static LIVE_BYTES_OF_ALL: AtomicIsize = AtomicIsize::new(0);

/// A test binary declares it as its `#[global_allocator]`.
#[derive(Debug)]
pub struct Counting;

fn count(bytes: isize, allocations: usize) {
    LIVE_BYTES_OF_ALL.fetch_add(bytes, Ordering::Relaxed);
    // A thread that ends frees memory after its counters are gone.
    let _ = LIVE_BYTES.try_with(|live| live.set(live.get() + bytes));
    let _ = ALLOCATIONS.try_with(|made| made.set(made.get() + allocations));
}

// SAFETY: everything is left to the system's allocator. Counting allocates nothing: the cells need no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed(), 1);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed(), 0);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.cast_signed() - layout.size().cast_signed(), 1);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// The bytes that this thread has allocated and not freed.
pub fn live_bytes() -> isize {
    LIVE_BYTES.get()
}

/// The bytes that all threads have allocated and not freed.
pub fn live_bytes_of_all() -> isize {
    LIVE_BYTES_OF_ALL.load(Ordering::Relaxed)
}

/// How many allocations this thread makes in it.
pub fn allocations_of<T>(work: impl FnOnce() -> T) -> usize {
    let before = ALLOCATIONS.get();
    drop(work());
    ALLOCATIONS.get() - before
}
