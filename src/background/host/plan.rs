//! [`plan`]: which service waits for which, and whether that can work.

use std::collections::HashMap;
use std::sync::Arc;

use crate::background::error::BuildError;
use crate::background::spec::Service;
use crate::background::supervisor::Edges;

/// Which index each name has, and whom each service depends on.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) indices: HashMap<Arc<str>, u32>,
    /// Empty if none depends on another.
    pub(super) edges: Vec<Edges>,
}

pub(super) fn plan(services: &[Service]) -> Result<Plan, BuildError> {
    let indices = indices(services)?;
    if services.iter().all(|service| service.dependencies.is_empty()) {
        return Ok(Plan { indices, edges: Vec::new() });
    }
    let (mut after, mut restarts_with) = (Vec::new(), Vec::new());
    for service in services {
        let needs = service.dependencies.iter().map(|need| {
            let unknown = || BuildError::UnknownDependency {
                service: Arc::clone(&service.name),
                dependency: Arc::clone(&need.name),
            };
            Ok((*indices.get(&need.name).ok_or_else(unknown)?, need.restarts_with))
        });
        let needs: Vec<(u32, bool)> = needs.collect::<Result<_, _>>()?;
        after.push(without_doubles(needs.iter().map(|(id, _)| *id).collect()));
        restarts_with.push(without_doubles(needs.iter().filter(|(_, tied)| *tied).map(|(id, _)| *id).collect()));
    }
    if let Some(circle) = circle(&after) {
        let name = |id: u32| services[id as usize].name.to_string();
        return Err(BuildError::Cycle { cycle: circle.into_iter().map(name).collect() });
    }
    let (before, followers) = (reversed(&after), reversed(&restarts_with));
    let edges = after.into_iter().zip(before).zip(restarts_with.into_iter().zip(followers));
    let edges = edges.map(|((after, before), (restarts_with, followers))| Edges {
        after: after.into(),
        before: before.into(),
        restarts_with: restarts_with.into(),
        followers: followers.into(),
    });
    Ok(Plan { indices, edges: edges.collect() })
}

fn indices(services: &[Service]) -> Result<HashMap<Arc<str>, u32>, BuildError> {
    let mut indices = HashMap::with_capacity(services.len());
    for (index, service) in (0..).zip(services) {
        if indices.insert(Arc::clone(&service.name), index).is_some() {
            return Err(BuildError::DuplicateName { name: Arc::clone(&service.name) });
        }
    }
    Ok(indices)
}

fn without_doubles(mut ids: Vec<u32>) -> Vec<u32> {
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Whom each has behind its arrows, from whom each has before them.
fn reversed(edges: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let mut reversed = vec![Vec::new(); edges.len()];
    for (from, to) in (0..).zip(edges) {
        to.iter().for_each(|to| reversed[*to as usize].push(from));
    }
    reversed
}

/// A way from a service along its dependencies back to itself, if there is one. Without recursion, since a chain may be long.
fn circle(after: &[Vec<u32>]) -> Option<Vec<u32>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        OnTheWay,
        Done,
    }
    let mut marks = vec![Mark::New; after.len()];
    for start in 0..after.len() as u32 {
        let mut way = vec![(start, 0)];
        while let Some((id, next)) = way.last_mut() {
            let (id, dependency) = (*id, after[*id as usize].get(*next).copied());
            *next += 1;
            match (marks[id as usize], dependency) {
                (Mark::Done, _) | (_, None) => {
                    marks[id as usize] = Mark::Done;
                    way.pop();
                }
                (_, Some(dependency)) => {
                    marks[id as usize] = Mark::OnTheWay;
                    if marks[dependency as usize] == Mark::OnTheWay {
                        let way = way.into_iter().map(|(id, _)| id).skip_while(|id| *id != dependency);
                        return Some(way.chain([dependency]).collect());
                    }
                    way.push((dependency, 0));
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circle_is_told_along_its_way() {
        assert_eq!(circle(&[vec![], vec![0], vec![0, 1]]), None);
        assert_eq!(circle(&[vec![0]]), Some(vec![0, 0]));
        assert_eq!(circle(&[vec![], vec![2, 0], vec![3], vec![1]]), Some(vec![1, 2, 3, 1]));
        assert_eq!(circle(&[vec![1], vec![2], vec![1]]), Some(vec![1, 2, 1]));
    }

    #[test]
    fn long_chain_needs_no_stack() {
        let chain: Vec<Vec<u32>> = (0..200_000).map(|id: u32| id.checked_sub(1).into_iter().collect()).collect();
        assert_eq!(circle(&chain), None);
    }

    #[test]
    fn diamonds_are_looked_at_once() {
        let ladder: Vec<Vec<u32>> = (0..10_000_u32).map(|id| (id.saturating_sub(8)..id).collect()).collect();
        assert_eq!(circle(&ladder), None);
    }
}
