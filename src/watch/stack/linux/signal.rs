//! The signal that interrupts a thread, and its handler.
//!
//! The handler does only what a signal handler may do: it allocates nothing, takes no lock, and restores `errno`. The
//! handler unwinds with libgcc, which finds the unwind tables of a function through `_dl_find_object`. glibc documents
//! `_dl_find_object` as async-signal-safe. Before the handler is installed, `unwinder` checks that libgcc unwinds
//! without a lock. The check also triggers the one-time initialization of libgcc.

#![allow(unsafe_code, reason = "signals have no safe interface")]

use std::ffi::{c_int, c_long, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use super::exchange::{Exchange, Writer};
use super::unwinder;

/// The system sends this signal when urgent data arrives at a socket. By default, a process ignores the signal, so a
/// signal that arrives without a handler does no harm.
const SIGNAL: c_int = libc::SIGURG;

pub(super) static EXCHANGE: Exchange = Exchange::new();

/// The current handler of the signal in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handler {
    None,
    Ours,
    Other,
}

pub(super) fn handler() -> Handler {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: The call changes nothing, and the pointer is valid for writes. Zeros are a valid `sigaction`, so the value
    // is initialized even if the call fails.
    let action = unsafe {
        libc::sigaction(SIGNAL, ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    match action.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => Handler::None,
        address if address == on_signal as *const () as usize => Handler::Ours,
        _ => Handler::Other,
    }
}

/// Installs the handler for the rest of the process's life. Returns `false` if the system refuses the handler.
///
/// The handler runs on the stack of the thread, not on an alternate one. The alternate stacks of the standard library
/// have 8 KiB, and the registers of some processors nearly fill them.
pub(super) fn install() -> bool {
    // SAFETY: Zeros are a valid `sigaction`: no flags, and an empty mask.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = on_signal as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: The pointer is valid, and the handler has the signature that `SA_SIGINFO` requires.
    unsafe { libc::sigaction(SIGNAL, &raw const action, ptr::null_mut()) == 0 }
}

/// Sends the signal to a thread of this process. Returns `false` if the thread has ended.
pub(super) fn send(tid: libc::pid_t) -> bool {
    let process = c_long::from(std::process::id().cast_signed());
    // SAFETY: The call has no effect on memory. It names this process, so it reaches no thread of another process.
    unsafe { libc::syscall(libc::SYS_tgkill, process, c_long::from(tid), c_long::from(SIGNAL)) == 0 }
}

/// A signal from another process or from the system has no effect if this thread's stack is not requested.
extern "C" fn on_signal(_signal: c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: The address is that of this thread's `errno`, as long as the thread runs.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: As above.
    let interrupted_errno = unsafe { *errno };
    // SAFETY: The call has no preconditions.
    let tid = unsafe { libc::gettid() };
    if let Some(mut writer) = EXCHANGE.write(tid) {
        // SAFETY: The handler was installed with `SA_SIGINFO`, so the system passes the context of the thread to it.
        let interrupted_at = unsafe { program_counter(context) };
        if !unwinder::is_in_libgcc(interrupted_at) {
            unwind_from(interrupted_at, &mut writer);
        }
        writer.finish();
    }
    // SAFETY: As above.
    unsafe { *errno = interrupted_errno };
}

/// Writes the frames of this thread, beginning with the function that was interrupted.
fn unwind_from(interrupted_at: usize, writer: &mut Writer<'_>) {
    let mut is_inside_handler = true;
    let each_frame = |frame: &backtrace::Frame| {
        let address = frame.ip() as usize;
        is_inside_handler &= address != interrupted_at;
        is_inside_handler || writer.push(address)
    };
    // SAFETY: On Linux, the function has no state of its own, so it needs no synchronization.
    unsafe { backtrace::trace_unsynchronized(each_frame) }
}

/// Returns the address of the instruction that was interrupted.
///
/// # Safety
///
/// `context` must be the pointer that the system has passed to the handler.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
unsafe fn program_counter(context: *const c_void) -> usize {
    // SAFETY: The caller promises that this is the context of a thread.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext };
    #[cfg(target_arch = "x86_64")]
    return registers.gregs[libc::REG_RIP as usize].cast_unsigned() as usize;
    #[cfg(target_arch = "aarch64")]
    return registers.pc as usize;
}

/// `unwinder` refuses other processors, so the handler is not installed.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn program_counter(_context: *const c_void) -> usize {
    0
}
