//! [`WorkerSet`], the workers of a pool, which runs each task in one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::boot;
use super::channel::WorkerSettings;
use super::frame::{ReplyKind, RequestHeader, RequestMeta};
use super::image;
use super::keeper::SetState;
use super::kill_switch::KillSwitch;
use super::limits::CallLimits;
use super::request::{Call, scopes_in_program, write_header};
use super::trace;
use super::worker::{CallEnd, Worker};
use super::zygote_link::ZygoteLink;
use crate::config_error::Problem;
use crate::debug::impl_debug;
use crate::offload::error::{OffloadError, OffloadErrorKind};
use crate::offload::limiter::SharedLimiter;
use crate::offload::process::codec::{self, Message};
use crate::offload::process::error::{ProcessError, WorkerDeath};
use crate::offload::process::function::Function;
use crate::offload::process::settings::ProcessSettings;
use crate::offload::process::stats::WorkerCounts;
use crate::panic::{Panic, catch_owned};
use crate::sync::{Condvar, Mutex, lock};

/// How many times a task tries to start a worker, or to send its request to one.
const START_ATTEMPTS: u32 = 3;

/// The workers of a pool.
///
/// Lock order: a thread that locks `zygote` may hold the lock of `state`. A thread that holds the lock of `zygote` must
/// not lock `state`.
pub(in crate::offload::process) struct WorkerSet {
    pub(super) settings: ProcessSettings,
    worker_settings: WorkerSettings,
    /// The total of this limiter is the greatest number of workers.
    pub(super) limiter: SharedLimiter,
    /// Locked while a zygote starts, so that all tasks that need a zygote share it.
    pub(super) zygote: Mutex<Option<Arc<ZygoteLink>>>,
    pub(super) state: Mutex<SetState>,
    /// Notifies the keeper.
    pub(super) changed: Condvar,
    started: AtomicU64,
    pub(super) died: AtomicU64,
    killed: AtomicU64,
}

/// The reason why a worker could not be started.
pub(super) enum StartError {
    /// There is no zygote that could fork the worker.
    Zygote(String),
    /// The zygote could not fork the worker, or the worker did not become ready.
    Worker(String),
}

impl WorkerSet {
    /// Returns an error if this process can't have workers.
    pub(in crate::offload::process) fn check_support(settings: &ProcessSettings) -> Result<(), Problem> {
        let initializer = settings.initializer.map(Function::of_initializer);
        if initializer.is_some_and(|initializer| !initializer.addresses().into_iter().all(image::contains_function)) {
            return Err((
                "initializer",
                "the initializer must be a function of the executable, not of a dynamic library",
            ));
        }
        if boot::is_prepared() {
            return Ok(());
        }
        Err(("worker_guard", boot::ADVICE))
    }

    /// Creates the worker set of a pool, and starts the keeper if workers have to be started ahead.
    pub(in crate::offload::process) fn new(settings: ProcessSettings, limiter: SharedLimiter) -> Arc<Self> {
        let worker_settings = WorkerSettings {
            initializer: settings.initializer.map(|initializer| Function::of_initializer(initializer).to_bytes()),
            memory_limit: settings.memory_limit,
            #[cfg(feature = "landlock")]
            sandbox: settings.sandbox.clone().map(|sandbox| sandbox.0),
            name: settings.name.clone().into_owned(),
        };
        let this = Arc::new(Self {
            settings,
            worker_settings,
            limiter,
            zygote: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            started: AtomicU64::new(0),
            died: AtomicU64::new(0),
            killed: AtomicU64::new(0),
        });
        if this.settings.min_idle > 0 {
            this.ensure_keeper();
        }
        this
    }

    /// Runs a task in a worker, and waits for it on this thread. `encode` appends the arguments, and `decode` reads the
    /// result.
    pub(in crate::offload::process) fn run<R>(
        self: &Arc<Self>,
        call: &Call<'_>,
        encode: impl FnOnce(&mut Message) -> Result<(), String>,
        decode: impl FnOnce(&[u8], Vec<Bytes>) -> Result<R, String>,
        switch: &KillSwitch,
    ) -> Result<R, ProcessError> {
        let refuse = |error| {
            trace::task_failed(&self.settings.name, call.label, &error);
            error
        };
        if !call.function.addresses().into_iter().all(image::contains_function) {
            return Err(refuse(ProcessError::ForeignFunction));
        }
        let mut request = Message { body: vec![0; RequestHeader::LENGTH], attachments: Vec::new() };
        let meta = RequestMeta { label: call.label.into(), scopes: scopes_in_program() };
        if meta != RequestMeta::default() {
            codec::encode(&meta, &mut request.body).map_err(|error| ProcessError::Codec(error.to_string()))?;
        }
        let arguments_at = request.body.len();
        encode(&mut request).map_err(|error| refuse(ProcessError::Codec(error)))?;
        let arguments_end = request.body.len();
        for attachment in &request.attachments {
            request.body.extend((attachment.len() as u64).to_le_bytes());
        }
        let mut attempts = 0;
        loop {
            let mut worker = self.take(call, switch)?;
            if !switch.arm(worker.group()) {
                self.put_back(worker);
                return Err(self.not_started(call, OffloadErrorKind::Cancelled));
            }
            write_header(&mut request, call, arguments_at..arguments_end);
            let limits = CallLimits {
                kill_at: call.deadline.and_then(|deadline| deadline.checked_add(self.settings.kill_grace)),
                memory: self.settings.memory_limit,
                cpu: call.cpu_limit,
                max_reply: self.settings.max_reply,
            };
            let started = Instant::now();
            let end = worker.call(&request, &limits);
            let is_cancelled = switch.disarm();
            let (kind, length) = match end {
                CallEnd::Reply(kind, length) => (kind, length),
                // The worker died while it was idle.
                CallEnd::NotStarted => {
                    let death = self.end(&mut worker, Duration::ZERO);
                    self.died.fetch_add(1, Ordering::Relaxed);
                    trace::worker_died(&self.settings.name, None, &death);
                    attempts += 1;
                    if is_cancelled {
                        return Err(self.not_started(call, OffloadErrorKind::Cancelled));
                    }
                    if attempts == START_ATTEMPTS {
                        return Err(ProcessError::NoWorker { attempts, reason: death.to_string() });
                    }
                    continue;
                }
                other => {
                    let death = self.end(&mut worker, started.elapsed());
                    let is_out_of_memory = limits.memory.is_some() && worker.is_out_of_memory(&death);
                    let end = if is_out_of_memory { &CallEnd::OutOfMemory } else { &other };
                    return Err(self.failure(call.label, end, is_cancelled, death));
                }
            };
            let result = match kind {
                ReplyKind::Done => {
                    let attachments = worker.take_attachments();
                    match catch_owned(|| decode(worker.body(length), attachments)) {
                        Ok(result) => result.map_err(ProcessError::Codec),
                        Err(panic) => Err(ProcessError::Panicked(panic)),
                    }
                }
                ReplyKind::Panicked => Err(match worker.panic(length) {
                    Ok(panic) => ProcessError::Panicked(Panic::remote(&panic.message, panic.location.as_deref())),
                    Err(error) => ProcessError::Codec(format!("decoding a panic failed: {error}")),
                }),
                ReplyKind::Codec => Err(ProcessError::Codec(String::from_utf8_lossy(worker.body(length)).into_owned())),
                ReplyKind::Ready | ReplyKind::Event | ReplyKind::Attachment => {
                    let death = self.end(&mut worker, started.elapsed());
                    let end = CallEnd::BadReply("it answers no request");
                    return Err(self.failure(call.label, &end, is_cancelled, death));
                }
            };
            let is_clean = worker.finish_call(length);
            if is_cancelled || !is_clean {
                let end = CallEnd::BadReply("it is longer than its header says");
                let death = self.end(&mut worker, started.elapsed());
                drop(self.failure(call.label, &end, is_cancelled, death));
            } else if self.is_used_up(&worker) {
                self.retire(worker);
            } else {
                self.put_back(worker);
            }
            return result.inspect_err(|error| trace::task_failed(&self.settings.name, call.label, error));
        }
    }

    /// Returns the error of a task whose worker has ended.
    fn failure(&self, label: &str, end: &CallEnd, is_cancelled: bool, death: WorkerDeath) -> ProcessError {
        let counter = if matches!(end, CallEnd::Died) && !is_cancelled { &self.died } else { &self.killed };
        counter.fetch_add(1, Ordering::Relaxed);
        let error = match end {
            _ if is_cancelled => ProcessError::Cancelled(death),
            CallEnd::TimedOut => ProcessError::Timeout(death),
            CallEnd::OutOfMemory => ProcessError::MemoryLimit(death),
            CallEnd::OutOfTime => ProcessError::CpuLimit(death),
            CallEnd::BadReply(reason) => ProcessError::BadReply { reason, death },
            CallEnd::Died | CallEnd::NotStarted | CallEnd::Reply(..) => ProcessError::WorkerDied(death),
        };
        trace::task_failed(&self.settings.name, label, &error);
        error
    }

    /// Takes an idle worker, or starts one.
    fn take(self: &Arc<Self>, call: &Call<'_>, switch: &KillSwitch) -> Result<Worker, ProcessError> {
        loop {
            let mut state = lock(&self.state);
            state.busy += 1;
            let idle = state.idle.pop_back();
            let lacks_idle = self.lacks_idle(&state);
            drop(state);
            if lacks_idle {
                self.changed.notify_one();
            }
            let Some(mut idle) = idle else { break };
            if idle.worker.is_idle() {
                return Ok(idle.worker);
            }
            self.retire(idle.worker);
        }
        self.ensure_keeper();
        let started = self.start_for(call, switch);
        started.inspect_err(|_| self.release_ended())
    }

    /// Starts a worker, unless the deadline of the task has passed or its caller has left.
    fn start_for(&self, call: &Call<'_>, switch: &KillSwitch) -> Result<Worker, ProcessError> {
        let mut attempts = 1;
        loop {
            let left = call.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(self.not_started(call, OffloadErrorKind::Timeout));
            }
            if switch.is_fired() {
                return Err(self.not_started(call, OffloadErrorKind::Cancelled));
            }
            match self.start(left) {
                Ok(worker) => return Ok(worker),
                // A program that does not become a zygote may have run a part of `main`, so it is not started again.
                Err(StartError::Zygote(reason)) => return Err(self.no_worker(attempts, reason)),
                Err(StartError::Worker(reason)) if attempts == START_ATTEMPTS => {
                    return Err(self.no_worker(attempts, reason));
                }
                Err(StartError::Worker(_)) => attempts += 1,
            }
        }
    }

    fn no_worker(&self, attempts: u32, reason: String) -> ProcessError {
        trace::worker_missing(&self.settings.name, &reason);
        ProcessError::NoWorker { attempts, reason }
    }

    /// Returns the error of a task that was not sent to a worker.
    fn not_started(&self, call: &Call<'_>, kind: OffloadErrorKind) -> ProcessError {
        let label = Some(call.label).filter(|label| !label.is_empty()).map(|label| label.to_owned().into());
        ProcessError::NotStarted(OffloadError::from(kind).of_task(self.settings.name.clone(), label))
    }

    /// Starts a worker within the `start_timeout` of the pool and within `limit`. The caller has already counted the
    /// worker as busy.
    pub(super) fn start(&self, limit: Option<Duration>) -> Result<Worker, StartError> {
        let limit = limit.map_or(self.settings.start_timeout, |limit| limit.min(self.settings.start_timeout));
        let zygote = self.zygote(limit).map_err(StartError::Zygote)?;
        let worker = Worker::start(zygote, self.settings.forwards_stderr, limit).map_err(StartError::Worker)?;
        self.started.fetch_add(1, Ordering::Relaxed);
        Ok(worker)
    }

    /// Returns the zygote, and starts it if there is none.
    fn zygote(&self, limit: Duration) -> Result<Arc<ZygoteLink>, String> {
        let mut zygote = lock(&self.zygote);
        if let Some(zygote) = zygote.as_ref().filter(|zygote| !zygote.is_broken()) {
            return Ok(Arc::clone(zygote));
        }
        let clears_environment = self.settings.clears_environment;
        let started = Arc::new(ZygoteLink::start(&self.worker_settings, clears_environment, limit)?);
        *zygote = Some(Arc::clone(&started));
        Ok(started)
    }

    /// Returns `true` if the worker has to be replaced.
    fn is_used_up(&self, worker: &Worker) -> bool {
        let ProcessSettings { max_tasks_per_worker, recycle_above, .. } = self.settings;
        max_tasks_per_worker.is_some_and(|tasks| worker.has_run(tasks))
            || recycle_above.is_some_and(|limit| worker.resident_memory().is_some_and(|bytes| bytes > limit))
    }

    fn end(&self, worker: &mut Worker, ran_for: Duration) -> WorkerDeath {
        let death = worker.end(ran_for);
        self.release_ended();
        death
    }

    pub(in crate::offload::process) fn counts(&self) -> WorkerCounts {
        let state = lock(&self.state);
        WorkerCounts {
            idle: state.idle.len(),
            busy: state.busy + state.ending,
            started: self.started.load(Ordering::Relaxed),
            died: self.died.load(Ordering::Relaxed),
            killed: self.killed.load(Ordering::Relaxed),
        }
    }
}

impl_debug!(WorkerSet |this| { settings: this.settings, counts: this.counts(), .. });
