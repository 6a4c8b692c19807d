//! Tables of integers as they stand in a blob: outputs in groups that the same nodes feed.

use kan_core::blob::{ALL_NODES, Aligned, LayerMessage};

use super::Table;
use crate::kinds::Kind;

/// Outputs that share a group at most, so that the search for groups ends.
const WIDEST_GROUP: usize = 64;

impl Table {
    /// The table as it goes into a blob.
    pub(crate) fn pack(&self) -> Packed {
        let outputs = self.bias.len();
        let groups = self.groups();
        let (mut targets, mut entries): (Vec<u16>, Vec<i32>) = (Vec::new(), Vec::new());
        let rows_of = |i: usize| self.grids[i].intervals + self.kind.tables.degree();
        let mut output = 0;
        for (size, members) in groups {
            let all = members.len() == self.nodes.len();
            let rows: usize = members.iter().map(|&i| rows_of(i)).sum();
            let count = if all { ALL_NODES } else { members.len() as u16 };
            targets.extend([size as u16, count, rows as u16, (rows >> 16) as u16]);
            if !all {
                for (&i, skipped) in members.iter().zip(self.skipped(&members)) {
                    targets.extend([i as u16, skipped as u16]);
                }
            }
            let end = output + size;
            while output < end {
                let width = block(end - output);
                for &i in &members {
                    for row in 0..rows_of(i) {
                        entries.extend((output..output + width).map(|j| {
                            let edge = self.coefficients[i * outputs + j].as_ref();
                            edge.map_or(0, |edge| edge[row])
                        }));
                    }
                }
                output += width;
            }
            let per_word = if self.kind.bits == 8 { 4 } else { 2 };
            entries.resize(entries.len().next_multiple_of(per_word), 0);
        }
        let coefficients = match self.kind.bits {
            8 => entries.iter().map(|&c| c as i8 as u8).collect(),
            _ => (entries.iter())
                .flat_map(|&c| (c as i16).to_le_bytes())
                .collect(),
        };
        let scales = self.scales.iter().flatten().map(|number| number.to_bits());
        Packed {
            kind: self.kind,
            nodes: self.nodes.iter().map(|node| node.pack()).collect(),
            bias: self.bias.clone(),
            targets,
            coefficients,
            base: std::iter::once(self.shift).chain(scales).collect(),
        }
    }

    /// Rows of the nodes before each member that are no members.
    fn skipped(&self, members: &[usize]) -> Vec<usize> {
        let mut before = 0;
        let of_member = |&i: &usize| {
            let skipped = (self.nodes[i].first >> 15) as usize - before;
            before += self.grids[i].intervals + self.kind.tables.degree();
            skipped
        };
        members.iter().map(of_member).collect()
    }

    /// Groups of outputs with the nodes that feed them, such that the kernels have least to do: a
    /// group costs something, each of its members, and for each block of outputs each member again.
    /// A group may hold edges that are not there, as columns of zeros.
    fn groups(&self) -> Vec<(usize, Vec<usize>)> {
        let outputs = self.bias.len();
        let nodes = self.nodes.len();
        let feeds: Vec<Vec<bool>> = (0..outputs)
            .map(|j| {
                (0..nodes)
                    .map(|i| self.coefficients[i * outputs + j].is_some())
                    .collect()
            })
            .collect();
        let order = self.kind.tables.degree() + 1;
        // The least cost of the outputs up to each, and the start of the last group.
        let mut best: Vec<(usize, usize)> = vec![(0, 0)];
        for end in 1..=outputs {
            let mut fed = vec![false; nodes];
            let mut least = (usize::MAX, 0);
            for start in (end.saturating_sub(WIDEST_GROUP)..end).rev() {
                for (fed, now) in fed.iter_mut().zip(&feeds[start]) {
                    *fed |= now;
                }
                let members = fed.iter().filter(|fed| **fed).count();
                let gathered = if members == nodes { 0 } else { 8 * members };
                let mut blocks = 0;
                let mut left = end - start;
                while left > 0 {
                    blocks += 4 + order * block(left) / 2;
                    left -= block(left);
                }
                let cost = best[start].0 + 40 + gathered + members * blocks;
                if cost < least.0 {
                    least = (cost, start);
                }
            }
            best.push(least);
        }
        let mut groups = Vec::new();
        let mut end = outputs;
        while end > 0 {
            let start = best[end].1;
            let is_fed = |i: &usize| feeds[start..end].iter().any(|output| output[*i]);
            let mut members: Vec<usize> = (0..nodes).filter(is_fed).collect();
            // The format has 16 bits for the rows that a member skips: so others are members, too.
            let is_used = |i: &usize| feeds.iter().any(|output| output[*i]);
            let others = |used: bool| (0..nodes).filter(move |i| !is_fed(i) && is_used(i) == used);
            // One that no edge leaves is never in the domain: those last.
            let mut others = others(true).chain(others(false));
            while self.skipped(&members).last() > Some(&0xffff) {
                members.extend(others.next());
                members.sort_unstable();
            }
            groups.push((end - start, members));
            end = start;
        }
        groups.reverse();
        groups
    }
}

/// The outputs that a kernel computes together where `left` are left.
fn block(left: usize) -> usize {
    match left {
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

/// The arrays of a layer as they stand in a blob.
pub(crate) struct Packed {
    kind: Kind,
    nodes: Vec<[u32; 4]>,
    bias: Vec<i32>,
    targets: Vec<u16>,
    coefficients: Vec<u8>,
    base: Vec<u32>,
}

impl Packed {
    pub(crate) fn message(&self) -> LayerMessage<'_> {
        LayerMessage {
            degree: self.kind.tables.degree() as u8,
            scalar: self.kind.scalar(),
            residual: false,
            outputs: self.bias.len() as u16,
            nodes: Aligned::of(&self.nodes),
            bias: Aligned::of(&self.bias),
            targets: Aligned::of(&self.targets),
            coefficients: Aligned::of(&self.coefficients),
            base: Aligned::of(&self.base),
        }
    }
}
