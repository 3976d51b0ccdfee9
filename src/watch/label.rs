//! [`Label`], the name of a route or a task in the reports of a watch.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{LazyLock, PoisonError, RwLock};

/// The name of a route or a task in the reports of a [`Watch`](super::Watch).
///
/// Equal texts give equal labels. The process never frees the text of a label, so create labels from a bounded set of
/// texts. Use the pattern of a route, such as `GET /users/{id}`, and never the path of a request.
///
/// ```
/// use onelane::watch::Label;
///
/// assert_eq!(Label::new("reindex"), Label::new(format!("re{}", "index")));
/// assert_eq!(Label::new("reindex").as_str(), "reindex");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Label(NonZeroU32);

/// The texts of all labels. A label is the index of its text, plus one.
#[derive(Default)]
struct Labels {
    texts: Vec<&'static str>,
    labels: HashMap<&'static str, Label>,
}

static LABELS: LazyLock<RwLock<Labels>> = LazyLock::new(RwLock::default);

impl Label {
    /// Creates a label, or returns the existing label with this text.
    ///
    /// # Panics
    ///
    /// Panics if the process already has 4,294,967,295 labels.
    pub fn new(text: impl Into<Cow<'static, str>>) -> Self {
        let text = text.into();
        let known = LABELS.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(label) = known.labels.get(&*text) {
            return *label;
        }
        drop(known);
        LABELS.write().unwrap_or_else(PoisonError::into_inner).insert(text)
    }

    /// Returns the text of the label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        let labels = LABELS.read().unwrap_or_else(PoisonError::into_inner);
        labels.texts[self.0.get() as usize - 1]
    }

    pub(super) fn id(self) -> u32 {
        self.0.get()
    }

    /// Returns the label with that [id](Self::id), or `None` for 0.
    pub(super) fn from_id(id: u32) -> Option<Self> {
        NonZeroU32::new(id).map(Self)
    }
}

impl Labels {
    fn insert(&mut self, text: Cow<'static, str>) -> Label {
        // Another thread may have created the label after this thread released the read lock.
        if let Some(label) = self.labels.get(&*text) {
            return *label;
        }
        let text: &'static str = match text {
            Cow::Borrowed(text) => text,
            Cow::Owned(text) => text.leak(),
        };
        self.texts.push(text);
        let id = u32::try_from(self.texts.len()).ok().and_then(NonZeroU32::new);
        let label = Label(id.expect("a process has fewer labels than 2^32"));
        self.labels.insert(text, label);
        label
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Label").field(&self.as_str()).finish()
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<&'static str> for Label {
    fn from(text: &'static str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Label {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}
