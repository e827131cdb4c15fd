//! The change stream: one order over all seats' logs.
//!
//! [`merge`] reads the committed entries of the seats that this node has in the order of their seqs; [`subscription`]
//! follows the resolved mark and says what a subscriber must know; [`gather`] makes one stream of several that each show
//! other seats, as [`parts`] decides. [`selection`] decides which events come, and what with them; [`consumers`] who has a
//! named subscription. [`audience`] has live events gathered when many are served them. How an entry gets committed is none of
//! this room's business.

pub mod audience;
mod cadence;
pub mod consumers;
pub mod filter;
pub mod gather;
pub mod marks;
pub mod merge;
pub mod parts;
pub mod seat;
pub mod selection;
pub mod subscription;

pub use audience::Audience;
pub use filter::Filter;
pub use gather::{Gather, Part};
pub use marks::{Marks, SeatsMark};
pub use merge::{Bound, Merge, Run};
pub use parts::Parts;
pub use seat::{SeatSource, Seats};
pub use selection::{Order, Selection};
pub use subscription::{Message, Start, Subscription};
