//! [`BackgroundTasks`], the tasks of one request.

use std::borrow::Cow;
use std::mem;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use thiserror::Error;

use super::queue::{TaskList, TaskQueue};
use super::task::{BackgroundTask, RunOn, TaskOutput};
use crate::debug::impl_debug;
use crate::sync::lock;
use crate::web::Refusal;

/// The tasks of a request that run after its response, like `BackgroundTasks` of FastAPI.
///
/// `BackgroundTasks` is an argument of a handler: an extractor for axum, in an app that
/// [`axum::serve`](crate::web::axum::serve()) serves, and for actix-web, in an app that
/// [`actix::serve`](crate::web::actix::serve()) serves.
///
/// - The tasks of a request run one after the other, in the order in which they were added. A task that fails, panics
///   or takes too long does not stop the next one; the failure is [logged](crate::docs::events). A task that is added
///   after the response has ended, for example by another task, does not wait for the others.
/// - They start when the response [has been sent](crate::web::TaskStart), in a task of their own. They therefore don't
///   delay the next request on the connection, and they run even if the client disconnects before it has the response.
/// - [`RunOn`] decides whether a task runs after an error response, or after a handler that did not respond.
/// - A [`ServiceHost`](crate::ServiceHost) waits for them when it stops, and its report names the tasks that did not
///   end.
/// - Their number is [limited](crate::web::BackgroundTasksConfig).
///
/// Tasks live in the process: they are lost when the process is killed.
///
/// ```
/// use axum::http::StatusCode;
/// use onelane::web::{BackgroundTasks, Refusal};
///
/// async fn sign_up(tasks: BackgroundTasks) -> Result<StatusCode, Refusal> {
///     tasks.add("welcome mail", async { send_mail().await })?;
///     tasks.add_blocking("audit log", || write_log())?;
///     Ok(StatusCode::CREATED) // the client has this before the mail is sent
/// }
/// # async fn send_mail() {}
/// # fn write_log() -> std::io::Result<()> { Ok(()) }
/// ```
#[derive(Clone)]
pub struct BackgroundTasks(Arc<RequestTasks>);

/// The queue of the server's background tasks is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "{max_queued} background tasks are queued, which is the maximum of the server: respond with a 503, or raise `max_queued`"
)]
#[non_exhaustive]
pub struct BackgroundTasksFull {
    max_queued: usize,
}

/// The tasks of one request, shared by its handler and its server. The server adds them to the request's extensions.
pub(crate) struct RequestTasks {
    queue: Arc<TaskQueue>,
    state: Mutex<TasksState>,
    /// The number of [`OpenTasks`].
    owners: AtomicUsize,
}

/// Keeps the tasks of a request open while the request may still get a response. The server owns one of these values,
/// and so does a layer whose handler continues without its client. The tasks end with the last value, unless the server
/// has ended them before.
///
/// A task may hold the [`BackgroundTasks`] of its own request, so a `BackgroundTasks` must not keep the tasks open.
#[derive(Debug)]
pub(crate) struct OpenTasks(Arc<RequestTasks>);

enum TasksState {
    /// The response has not ended.
    Open {
        tasks: Vec<BackgroundTask>,
        /// The status that the handler has responded with. Its client may have disconnected before.
        status: Option<u16>,
    },
    Ended(Option<u16>),
}

impl Default for TasksState {
    fn default() -> Self {
        Self::Open { tasks: Vec::new(), status: None }
    }
}

impl BackgroundTasks {
    /// Adds a future, with a name for logs and reports.
    ///
    /// # Errors
    ///
    /// Returns [`BackgroundTasksFull`] if too many tasks of the server wait. The error converts to a [`Refusal`] with
    /// status 503.
    pub fn add<F>(&self, name: impl Into<Cow<'static, str>>, future: F) -> Result<(), BackgroundTasksFull>
    where
        F: Future<Output: TaskOutput> + Send + 'static,
    {
        self.add_task(BackgroundTask::new(name, future))
    }

    /// Adds a closure that blocks its thread, with a name for logs and reports.
    ///
    /// # Errors
    ///
    /// The same as for [`add`](Self::add).
    #[cfg(feature = "offload")]
    pub fn add_blocking<F, T>(&self, name: impl Into<Cow<'static, str>>, work: F) -> Result<(), BackgroundTasksFull>
    where
        F: FnOnce() -> T + Send + 'static,
        T: TaskOutput,
    {
        self.add_task(BackgroundTask::blocking(name, work))
    }

    /// Adds a task with options. If the response has ended already, the task starts as soon as the limits allow.
    ///
    /// # Errors
    ///
    /// The same as for [`add`](Self::add).
    pub fn add_task(&self, task: BackgroundTask) -> Result<(), BackgroundTasksFull> {
        let Self(tasks) = self;
        tasks.queue.admit(&task).map_err(|max_queued| BackgroundTasksFull { max_queued })?;
        let mut state = lock(&tasks.state);
        match &mut *state {
            TasksState::Open { tasks, .. } => tasks.push(task),
            TasksState::Ended(status) => {
                let status = *status;
                drop(state);
                tasks.list(vec![task], status).into_iter().for_each(TaskList::start);
            }
        }
        Ok(())
    }
}

impl OpenTasks {
    pub(crate) fn new(queue: &Arc<TaskQueue>) -> Self {
        let (queue, state, owners) = (Arc::clone(queue), Mutex::default(), AtomicUsize::new(1));
        Self(Arc::new(RequestTasks { queue, state, owners }))
    }

    /// Returns the tasks as an argument of a handler.
    pub(crate) fn argument(&self) -> BackgroundTasks {
        BackgroundTasks(Arc::clone(&self.0))
    }

    /// Keeps the tasks of a handler open.
    #[cfg(feature = "offload")]
    pub(crate) fn of(tasks: &BackgroundTasks) -> Self {
        tasks.0.owners.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&tasks.0))
    }
}

impl Deref for OpenTasks {
    type Target = RequestTasks;

    fn deref(&self) -> &RequestTasks {
        &self.0
    }
}

impl Clone for OpenTasks {
    fn clone(&self) -> Self {
        self.0.owners.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl Drop for OpenTasks {
    fn drop(&mut self) {
        // The mutex of the tasks orders everything else.
        if self.0.owners.fetch_sub(1, Ordering::Relaxed) == 1 {
            // The server has received no response: the handler was dropped, or has continued without its client.
            self.0.end().into_iter().for_each(TaskList::start);
        }
    }
}

impl RequestTasks {
    /// Returns `true` if tasks wait for the end of the response.
    pub(crate) fn has_tasks(&self) -> bool {
        matches!(&*lock(&self.state), TasksState::Open { tasks, .. } if !tasks.is_empty())
    }

    /// Records the status of a response that may not reach the server: the handler may run without its client. Returns
    /// `true` if tasks wait for the end of the response.
    pub(crate) fn note_response(&self, responded: u16) -> bool {
        let TasksState::Open { status, tasks } = &mut *lock(&self.state) else { return false };
        *status = Some(responded);
        !tasks.is_empty()
    }

    /// Records that the response has ended, if there was one. Returns the tasks to start.
    pub(crate) fn end(&self) -> Option<TaskList> {
        let mut state = lock(&self.state);
        let TasksState::Open { tasks, status } = &mut *state else { return None };
        let (tasks, status) = (mem::take(tasks), *status);
        *state = TasksState::Ended(status);
        drop(state);
        self.list(tasks, status)
    }

    fn list(&self, tasks: Vec<BackgroundTask>, status: Option<u16>) -> Option<TaskList> {
        if tasks.is_empty() {
            return None;
        }
        let runs = |task: &BackgroundTask| match task.run_on {
            RunOn::Always => true,
            RunOn::Response => status.is_some(),
            RunOn::Success => status.is_some_and(|status| status < 400),
        };
        let (wanted, unwanted): (Vec<_>, Vec<_>) = tasks.into_iter().partition(runs);
        self.queue.withdraw(unwanted);
        (!wanted.is_empty()).then(|| TaskList::new(&self.queue, wanted))
    }
}

impl From<BackgroundTasksFull> for Refusal {
    fn from(_: BackgroundTasksFull) -> Self {
        Self::background_tasks_full()
    }
}

impl_debug!(RequestTasks |this| { has_tasks: this.has_tasks(), .. });

impl_debug!(BackgroundTasks |this| { has_tasks: this.0.has_tasks() });
