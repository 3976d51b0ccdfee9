//! The checks that unwinding in a handler is safe: whether the unwinder takes no lock, and where it must not begin.
//!
//! An unwinder finds the unwind tables of a function in the list of loaded libraries. libgcc before GCC 12, and every
//! libgcc with glibc before 2.35, read that list under a lock. A handler that interrupts the owner of the lock would
//! wait for the lock forever. The version of glibc does not suffice: the libgcc of some environments was built for an
//! older glibc.
//!
//! The functions of libgcc that continue a panic replace the registers of the thread before they return into the
//! function that catches the panic. For these few instructions the tables are wrong, and an unwinder that begins there
//! may read from any address. So a handler that has interrupted libgcc itself does not unwind.

#![allow(unsafe_code, reason = "the list of loaded libraries has no safe interface")]

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use std::{ptr, slice, thread};

/// How long an unwinder that takes no lock may take on a very busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
const LIBRARY: &[u8] = b"libgcc_s.so";

/// The first address of libgcc's code, and the address after the last one.
static LIBGCC: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

struct Signals {
    begin: Sender<()>,
    ended: Receiver<()>,
    has_ended: bool,
}

/// Returns `true` if a thread can safely unwind in a handler.
pub(super) fn is_async_signal_safe() -> bool {
    cfg!(any(target_arch = "x86_64", target_arch = "aarch64"))
        && !cfg!(target_feature = "crt-static")
        && has_lock_free_list()
        && find_libgcc()
        && runs_while_the_list_is_locked(unwind)
}

/// Returns `true` if the address is in libgcc.
pub(super) fn is_in_libgcc(address: usize) -> bool {
    let [start, end] = LIBGCC.each_ref().map(|address| address.load(Ordering::Relaxed));
    (start..end).contains(&address)
}

/// Records the addresses of libgcc. Returns `false` if libgcc is part of the executable file.
fn find_libgcc() -> bool {
    // SAFETY: The callback has the signature that the function requires, and uses no data.
    unsafe { libc::dl_iterate_phdr(Some(is_libgcc), ptr::null_mut()) != 0 }
}

/// Called with each library, until a call returns 1.
extern "C" fn is_libgcc(library: *mut libc::dl_phdr_info, _size: usize, _data: *mut c_void) -> c_int {
    // SAFETY: The pointer is valid during the call.
    let library = unsafe { &*library };
    // SAFETY: A library has a name, and the main program has an empty one.
    let name = unsafe { CStr::from_ptr(library.dlpi_name) };
    if !name.to_bytes().windows(LIBRARY.len()).any(|part| part == LIBRARY) {
        return 0;
    }
    // SAFETY: The library has that many headers, and stays loaded, because the program is linked with it.
    let headers = unsafe { slice::from_raw_parts(library.dlpi_phdr, library.dlpi_phnum.into()) };
    let code = headers.iter().find(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0);
    let Some(code) = code else { return 0 };
    let start = library.dlpi_addr as usize + code.p_vaddr as usize;
    LIBGCC[0].store(start, Ordering::Relaxed);
    LIBGCC[1].store(start + code.p_memsz as usize, Ordering::Relaxed);
    1
}

/// glibc has `_dl_find_object` from 2.35 on. With an older glibc, the check with the lock would only run into its
/// timeout.
#[cfg(target_env = "gnu")]
fn has_lock_free_list() -> bool {
    // SAFETY: The function returns a string that is never freed.
    let version = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) };
    version.to_str().is_ok_and(is_new_enough)
}

#[cfg(not(target_env = "gnu"))]
fn has_lock_free_list() -> bool {
    false
}

#[cfg(any(test, target_env = "gnu"))]
fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(2), Some(35))
}

fn unwind() {
    // SAFETY: On Linux, the function has no state of its own, so it needs no synchronization.
    unsafe { backtrace::trace_unsynchronized(|_| true) }
}

/// Runs a function on another thread while this thread holds the lock of the list of loaded libraries. Returns `true`
/// if the function ends before the lock is released.
fn runs_while_the_list_is_locked(function: impl FnOnce() + Send + 'static) -> bool {
    let ((begin, begins), (ends, ended)) = (channel(), channel());
    let run = move || {
        if begins.recv().is_ok() {
            function();
            let _ = ends.send(());
        }
    };
    if thread::Builder::new().name("onelane-watch".to_owned()).spawn(run).is_err() {
        return false;
    }
    let mut signals = Signals { begin, ended, has_ended: false };
    // SAFETY: The callback has the signature that the function requires, and it receives the pointer to `signals`, which
    // outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(with_locked_list), (&raw mut signals).cast()) };
    signals.has_ended
}

/// Called with the first library of the list, while the list is locked.
extern "C" fn with_locked_list(_library: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> c_int {
    // SAFETY: `runs_while_the_list_is_locked` passes this pointer, and uses the value only after the call.
    let signals = unsafe { &mut *data.cast::<Signals>() };
    signals.has_ended = signals.begin.send(()).is_ok() && signals.ended.recv_timeout(PATIENCE).is_ok();
    // Ends the iteration.
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_from_2_35_on_are_new_enough() {
        assert!(["2.35", "2.36", "2.41.9000", "3.0"].into_iter().all(is_new_enough));
        assert!(!["2.34", "2.9", "1.99", "", "2"].into_iter().any(is_new_enough));
    }

    #[test]
    fn function_that_reads_the_list_of_libraries_is_detected() {
        extern "C" fn end(_library: *mut libc::dl_phdr_info, _size: usize, _data: *mut c_void) -> c_int {
            1
        }
        // SAFETY: The callback uses no pointer.
        let reads_the_list = || unsafe {
            libc::dl_iterate_phdr(Some(end), ptr::null_mut());
        };
        assert!(!runs_while_the_list_is_locked(reads_the_list));
        assert!(runs_while_the_list_is_locked(unwind));
    }
}
