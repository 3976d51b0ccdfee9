//! [`Server`], which connects to PostgreSQL, creates the table, and turns errors into texts that say what to do.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, Connection, Error};

use super::super::error::BackendError;
use super::super::link::{CallError, Connector};
use super::super::waiters::Waiters;
use super::session::{Parameter, Session};
use super::statements::Statements;

pub(super) struct Server {
    pub(super) connect: Arc<Connect>,
    pub(super) statements: Statements,
    /// The store requests notifications of releases. Its connection is then a session of its own, in which statements
    /// are prepared.
    pub(super) listens: bool,
    pub(super) waiters: Arc<Waiters>,
}

pub(super) type Connect =
    dyn Fn(Arc<Waiters>) -> Pin<Box<dyn Future<Output = Result<Client, Error>> + Send>> + Send + Sync;

/// The oldest version that supports all statements.
const OLDEST_VERSION: i32 = 12;

impl Server {
    /// Turns an error into one that says what to do.
    pub(super) fn explain(&self, error: Error) -> CallError {
        let table = &self.statements.table;
        let code = error.code().map(tokio_postgres::error::SqlState::code);
        let is_broken = match code {
            // The next connection creates the table again, or finds the new primary.
            Some("42P01" | "25006") => true,
            // The server shuts down.
            Some(code) => code.starts_with("57P"),
            None => true,
        };
        let message = match code {
            Some("28P01" | "28000") => "PostgreSQL refused user or password: set them in the connector".to_owned(),
            Some("3D000") => "the database does not exist: create it, or set another one in the connector".to_owned(),
            Some("42501") => {
                let sequence = &self.statements.sequence;
                format!(
                    "the PostgreSQL role lacks rights: GRANT SELECT, INSERT, UPDATE, DELETE ON {table}, and USAGE ON \
                     SEQUENCE {sequence}"
                )
            }
            Some("25006") => READ_ONLY.to_owned(),
            Some("53300") => "PostgreSQL has no connection left: raise max_connections, or use a pooler".to_owned(),
            Some("57P03") => "PostgreSQL is starting or stopping: it answers when it is ready".to_owned(),
            Some("42P01") => format!("the table {table} is missing: it is created with the next connection"),
            Some("42703" | "42804" | "42P10") => {
                format!("the table {table} has other columns: choose another name with table()")
            }
            Some(_) => "PostgreSQL refused a statement".to_owned(),
            None => "PostgreSQL can't be reached: check that it runs, and its address in the connector".to_owned(),
        };
        CallError { error: BackendError::new(message).with_source(error), is_broken }
    }

    async fn prepare(&self) -> Result<Arc<Session>, CallError> {
        let explain = |error| self.explain(error);
        let client = (self.connect)(Arc::clone(&self.waiters)).await.map_err(explain)?;
        let Statements { table, sequence, .. } = &self.statements;
        let names: [Parameter<'_>; 2] = [(table, Type::TEXT), (sequence, Type::TEXT)];
        let row = client.query_typed_one(&self.statements.examine, &names).await.map_err(explain)?;
        if row.get::<_, bool>("is_standby") {
            return Err(fatal(READ_ONLY));
        }
        let version = row.get::<_, i32>("version") / 10_000;
        if version < OLDEST_VERSION {
            return Err(fatal(format!("PostgreSQL has version {version}: use version {OLDEST_VERSION} or newer")));
        }
        if !row.get::<_, bool>("exists") {
            self.create(&client, row.get("micros")).await?;
        }
        if self.listens {
            client.batch_execute(&format!("LISTEN {}", self.channel())).await.map_err(explain)?;
        }
        Ok(Arc::new(Session::new(client, self.listens)))
    }

    /// Creates the table and the sequence. Other processes may do so at the same time.
    async fn create(&self, client: &Client, micros: i64) -> Result<(), CallError> {
        let definition = format!("{};{}", self.statements.create_table, self.statements.create_sequence(micros));
        let mut result = client.batch_execute(&definition).await;
        if result.as_ref().is_err_and(|error| matches!(error.code().map(|code| code.code()), Some("23505" | "42P07"))) {
            // Another process was faster, and its transaction has ended by now.
            result = client.batch_execute(&definition).await;
        }
        result.map_err(|error| {
            let table = &self.statements.table;
            let message = if error.code().is_some_and(|code| code.code() == "42501") {
                format!("the table {table} is missing, and the PostgreSQL role may not create it: execute {definition}")
            } else {
                return self.explain(error);
            };
            CallError { error: BackendError::new(message).with_source(error), is_broken: false }
        })
    }

    fn channel(&self) -> String {
        format!("\"{}\"", self.statements.channel.replace('"', "\"\""))
    }
}

pub(super) const READ_ONLY: &str = "PostgreSQL is a read-only standby: connect to the primary, for example with \
    target_session_attrs=read-write";

fn fatal(message: impl Into<std::borrow::Cow<'static, str>>) -> CallError {
    CallError { error: BackendError::new(message), is_broken: false }
}

impl Connector for Server {
    type Connection = Arc<Session>;

    fn open(&self) -> Pin<Box<dyn Future<Output = Result<Arc<Session>, CallError>> + Send + '_>> {
        Box::pin(self.prepare())
    }
}

/// Drives a connection until its client is dropped or the connection breaks.
pub(super) async fn drive<S, T>(mut connection: Connection<S, T>, waiters: Arc<Waiters>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        if let AsyncMessage::Notification(notification) = message {
            waiters.notify(notification.payload());
        }
    }
    // Releases are missed from now on, so all callers check their locks.
    waiters.notify_all();
}
