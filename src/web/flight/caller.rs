//! [`Caller`] and [`ClientWatch`], a request that waits for a run, and its client.

use super::Fields;
use crate::web::Refusal;
use crate::web::request_head::HeadView;

/// A request, of any framework, that has not been served yet.
pub(crate) trait Caller {
    fn fields(&self) -> &impl Fields;

    fn copy_head(&self) -> Box<dyn HeadView + Send + Sync>;
}

/// Watches the client of one request. The watch is not part of the run, because the run belongs to several requests.
pub(crate) trait ClientWatch {
    /// Returns the refusal of the request, if its client has disconnected.
    fn refusal(&self) -> Option<Refusal>;

    /// Waits until the client has disconnected, and returns the refusal of its request.
    fn gone(&self) -> impl Future<Output = Refusal> + Send;
}
