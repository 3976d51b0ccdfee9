//! The lane beside a naive queue, over random programs.
