//! An allocator for test binaries that counts bytes and allocations, per thread and for the whole process. Counts per
//! thread keep concurrent tests apart.

#![allow(unsafe_code, reason = "a global allocator cannot be written without it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicIsize, Ordering};

thread_local! {
    static LIVE_BYTES: Cell<isize> = const { Cell::new(0) };
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

static LIVE_BYTES_OF_ALL: AtomicIsize = AtomicIsize::new(0);

/// The system allocator with counters. A test binary declares it as its `#[global_allocator]`.
#[derive(Debug)]
pub struct Counting;

fn count(bytes: isize, allocations: usize) {
    LIVE_BYTES_OF_ALL.fetch_add(bytes, Ordering::Relaxed);
    // A thread that exits still frees memory after its counters were destroyed.
    let _ = LIVE_BYTES.try_with(|live| live.set(live.get() + bytes));
    let _ = ALLOCATIONS.try_with(|made| made.set(made.get() + allocations));
}

// SAFETY: every call is forwarded to the system allocator. Counting does not allocate: the cells need no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed(), 1);
        // SAFETY: the caller upholds the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed(), 0);
        // SAFETY: the caller upholds the contract, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.cast_signed() - layout.size().cast_signed(), 1);
        // SAFETY: the caller upholds the contract, which is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Returns the number of bytes that this thread has allocated and not freed.
pub fn live_bytes() -> isize {
    LIVE_BYTES.get()
}

/// Returns the number of bytes that all threads have allocated and not freed.
pub fn live_bytes_of_all() -> isize {
    LIVE_BYTES_OF_ALL.load(Ordering::Relaxed)
}

/// Returns the number of allocations that this thread makes in `work`.
pub fn allocations_of<T>(work: impl FnOnce() -> T) -> usize {
    let before = ALLOCATIONS.get();
    drop(work());
    ALLOCATIONS.get() - before
}
