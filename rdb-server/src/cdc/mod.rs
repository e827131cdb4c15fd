//! The change stream: one order over all seats' logs.
//!
//! [`merge`] reads the committed entries of every seat in the order of their seqs; [`subscription`] follows the
//! resolved mark and says what a subscriber must know; [`filter`] decides which events pass. How an entry gets
//! committed is none of this room's business.

pub mod filter;
pub mod marks;
pub mod merge;
pub mod subscription;

pub use filter::Filter;
pub use marks::Marks;
pub use merge::Merge;
pub use subscription::{Message, Start, Subscription};
