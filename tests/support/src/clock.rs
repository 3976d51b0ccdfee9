//! [`TestClock`], a clock of other processes that a test can set.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::{env, sync::atomic::AtomicU32, sync::atomic::Ordering};

/// Replaces the functions of the C library that read clocks. Their results are those of the real clocks plus the
/// seconds that the test writes to a file.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *added(void) {
    static int64_t none[2];
    static volatile int64_t *file;
    if (file == NULL) {
        const char *path = getenv("ONELANE_TEST_CLOCK");
        int descriptor = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
        void *mapped = mmap(NULL, sizeof none, PROT_READ, MAP_SHARED, descriptor, 0);
        file = mapped == MAP_FAILED ? none : mapped;
    }
    return file;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (syscall(SYS_clock_gettime, clock, now) != 0) return -1;
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += added()[0];
    if (clock == CLOCK_BOOTTIME) now->tv_sec += added()[1];
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec time;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &time);
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    if (now != NULL) *now = time.tv_sec;
    return time.tv_sec;
}
"#;

/// The clocks of processes that are started with these [variables](Self::variables).
pub struct TestClock {
    folder: PathBuf,
    added: File,
}

impl TestClock {
    /// # Panics
    ///
    /// Panics if there is no C compiler, which Rust needs as well.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("onelane-clock-{}-{number}", process::id()));
        fs::create_dir_all(&folder).expect("the temporary folder is writable");
        fs::write(folder.join("clock.c"), SOURCE).expect("the temporary folder is writable");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o", "clock.so", "clock.c"]).current_dir(&folder);
        let status = compiler.status().expect("the C compiler can be started: `apt-get install build-essential`");
        assert!(status.success(), "the clock is compiled");
        let added = OpenOptions::new().create_new(true).write(true).open(folder.join("added"));
        let this = Self { folder, added: added.expect("the temporary folder is writable") };
        this.set(0, 0);
        this
    }

    /// Returns the environment variables of the processes.
    #[must_use]
    pub fn variables(&self) -> [(&'static str, String); 2] {
        let path = |path: &Path| path.to_str().expect("the path of the temporary folder is text").to_owned();
        [("LD_PRELOAD", path(&self.folder.join("clock.so"))), ("ONELANE_TEST_CLOCK", path(&self.folder.join("added")))]
    }

    /// Sets the number of seconds that are added to the time of day, and to the time since the boot, which includes the
    /// time during which the machine is suspended.
    pub fn set(&self, time_of_day: i64, since_boot: i64) {
        let bytes = [time_of_day.to_ne_bytes(), since_boot.to_ne_bytes()].concat();
        self.added.write_all_at(&bytes, 0).expect("the file is writable");
    }
}

impl Default for TestClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TestClock {
    fn drop(&mut self) {
        // This fails only if the folder has already been removed.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
