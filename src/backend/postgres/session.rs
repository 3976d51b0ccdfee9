//! [`Session`], a connection with the statements that it has prepared.

use std::collections::HashMap;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row, Statement};

use crate::sync::{Mutex, lock};

/// A parameter of a statement, and its type in the statement.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// A connection, and the statements that it has prepared.
pub(super) struct Session {
    client: Client,
    /// The statements by their texts. `None` if statements are not prepared, because a pooler may execute each
    /// statement in another session of the server.
    prepared: Option<Mutex<HashMap<String, Statement>>>,
}

impl Session {
    pub(super) fn new(client: Client, prepares: bool) -> Self {
        Self { client, prepared: prepares.then(Mutex::default) }
    }

    /// Executes a statement. The server takes much longer to plan the statements of this crate than to execute them, so
    /// each statement is prepared before its first use.
    pub(super) async fn query(&self, text: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Error> {
        let Some(prepared) = &self.prepared else { return self.client.query_typed(text, parameters).await };
        let known = lock(prepared).get(text).cloned();
        let statement = match known {
            Some(statement) => statement,
            None => {
                let types: Vec<_> = parameters.iter().map(|(_, kind)| kind.clone()).collect();
                let statement = self.client.prepare_typed(text, &types).await?;
                let replaced = lock(prepared).insert(text.to_owned(), statement.clone());
                drop(replaced);
                statement
            }
        };
        let values: Vec<_> = parameters.iter().map(|(value, _)| *value).collect();
        self.client.query(&statement, &values).await
    }
}
