//! [`BackgroundTasks`], the tasks of one request.

use std::borrow::Cow;
use std::mem;
use std::sync::{Arc, Mutex};

use thiserror::Error;

use super::queue::{TaskList, TaskQueue};
use super::task::{BackgroundTask, RunOn, TaskOutput};
use crate::debug::impl_debug;
use crate::sync::lock;
use crate::web::Refusal;

/// The tasks of a request that run after its response, like `BackgroundTasks` of FastAPI.
///
/// It is an argument of a handler: an extractor for axum, in an app that [`axum::serve`](crate::web::axum::serve())
/// serves, and for actix-web, in an app that [`actix::serve`](crate::web::actix::serve()) serves.
///
/// - The tasks of a request run one after the other, in the order in which they were added. A task that fails, panics
///   or takes too long does not stop the next one; the failure is [logged](crate::docs::events).
/// - They start when the response [has been sent](crate::web::TaskStart), in a task of their own. So they don't delay
///   the next request of the connection, and they run even if the client disconnects before it has the response.
/// - [`RunOn`] decides about responses that are errors, and about handlers that did not respond.
/// - A [`ServiceHost`](crate::ServiceHost) waits for them when it stops, and its report names those that did not end.
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
}

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
    pub(crate) fn new(tasks: Arc<RequestTasks>) -> Self {
        Self(tasks)
    }

    #[cfg(feature = "offload")]
    pub(crate) fn request_tasks(&self) -> &Arc<RequestTasks> {
        &self.0
    }

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
    /// As of [`add`](Self::add).
    #[cfg(feature = "offload")]
    pub fn add_blocking<F, T>(&self, name: impl Into<Cow<'static, str>>, work: F) -> Result<(), BackgroundTasksFull>
    where
        F: FnOnce() -> T + Send + 'static,
        T: TaskOutput,
    {
        self.add_task(BackgroundTask::blocking(name, work))
    }

    /// Adds a task with options. If the response has ended already, the task starts as soon as it may.
    ///
    /// # Errors
    ///
    /// As of [`add`](Self::add).
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

impl RequestTasks {
    pub(crate) fn new(queue: &Arc<TaskQueue>) -> Arc<Self> {
        Arc::new(Self { queue: Arc::clone(queue), state: Mutex::default() })
    }

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

impl Drop for RequestTasks {
    fn drop(&mut self) {
        // The server has not had a response: the handler was dropped, or has continued without its client.
        self.end().into_iter().for_each(TaskList::start);
    }
}

impl From<BackgroundTasksFull> for Refusal {
    fn from(_: BackgroundTasksFull) -> Self {
        Self::background_tasks_full()
    }
}

impl_debug!(RequestTasks |this| { has_tasks: this.has_tasks(), .. });

impl_debug!(BackgroundTasks |this| { has_tasks: this.0.has_tasks() });
