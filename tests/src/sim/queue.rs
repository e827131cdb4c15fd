//! The one queue of everything that is going to happen, ordered by time and then by when it was put in. No two things
//! happen at once, and nothing depends on an address or a hash.

use super::plan::Micros;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

#[derive(Debug)]
struct Planned<T> {
    at: Micros,
    order: u64,
    what: T,
}

impl<T> PartialEq for Planned<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl<T> Eq for Planned<T> {}

impl<T> PartialOrd for Planned<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Planned<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap hands out the greatest first.
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// What is going to happen.
#[derive(Debug)]
pub struct Queue<T> {
    heap: BinaryHeap<Planned<T>>,
    order: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            order: 0,
        }
    }
}

impl<T> Queue<T> {
    /// Plans something.
    pub fn push(&mut self, at: Micros, what: T) {
        self.order += 1;
        let order = self.order;
        self.heap.push(Planned { at, order, what });
    }

    /// What happens next, and when.
    pub fn pop(&mut self) -> Option<(Micros, T)> {
        self.heap.pop().map(|planned| (planned.at, planned.what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_planned_for_one_moment_happens_in_the_order_of_planning() {
        let mut queue = Queue::default();
        for (at, what) in [(5, 'b'), (3, 'a'), (5, 'c'), (9, 'd')] {
            queue.push(at, what);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [(3, 'a'), (5, 'b'), (5, 'c'), (9, 'd')]);
    }
}
