//! Changing the number of tokens.

use super::capacity_limiter::{CapacityLimiter, KIND, check_total};
use crate::config_error::ConfigError;

impl CapacityLimiter {
    /// Returns the number of tokens, excluding the reserve.
    #[must_use]
    pub fn total(&self) -> usize {
        self.semaphores.ordinary().total()
    }

    /// Changes the number of tokens, excluding the reserve.
    ///
    /// New tokens go to the callers in the queue, in their order. If the total shrinks, no holder loses a token:
    /// released tokens first make up for those that are [missing](super::LimiterStats::available). A total of 0 pauses
    /// the limiter. For a change relative to the current total, use [`update_total`](Self::update_total).
    ///
    /// # Panics
    ///
    /// Panics if `total` is above [`MAX_TOTAL`](Self::MAX_TOTAL).
    #[track_caller]
    pub fn set_total(&self, total: usize) {
        match check_total(total) {
            Ok(()) => self.semaphores.ordinary().set_total(total),
            Err((_, problem)) => panic!("{problem}"),
        }
    }

    /// Changes the number of tokens, like [`set_total`](Self::set_total), to a number that may be out of range, such as
    /// one of a configuration file.
    ///
    /// # Errors
    ///
    /// Returns an error if `total` is above [`MAX_TOTAL`](Self::MAX_TOTAL). The total has not changed then.
    pub fn try_set_total(&self, total: usize) -> Result<(), ConfigError> {
        check_total(total).map_err(|problem| ConfigError::new(KIND, "", problem))?;
        self.semaphores.ordinary().set_total(total);
        Ok(())
    }

    /// Changes the number of tokens to what `change` makes of the current number, and returns the new number. The
    /// change has the effects of [`set_total`](Self::set_total).
    ///
    /// No change of another caller is lost: if the total changes while `change` runs, `change` is called again, with
    /// the new total.
    ///
    /// # Panics
    ///
    /// Panics if `change` returns a number above [`MAX_TOTAL`](Self::MAX_TOTAL). The total has not changed then.
    ///
    /// # Examples
    ///
    /// ```
    /// let limiter = onelane::CapacityLimiter::new(4);
    /// assert_eq!(limiter.update_total(|total| total + 2), 6);
    /// assert_eq!(limiter.update_total(|total| total.saturating_sub(10)), 0);
    /// ```
    #[track_caller]
    pub fn update_total(&self, mut change: impl FnMut(usize) -> usize) -> usize {
        loop {
            let seen = self.total();
            let total = change(seen);
            if let Err((_, problem)) = check_total(total) {
                panic!("{problem}");
            }
            if self.semaphores.ordinary().compare_set_total(seen, total) {
                return total;
            }
        }
    }
}
