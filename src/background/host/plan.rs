//! [`dependencies`]: which service waits for which, and whether that can work.

use std::collections::HashMap;
use std::sync::Arc;

use crate::background::error::BuildError;
use crate::background::spec::Service;

/// Whom each service depends on, with and without restarting with it.
#[derive(Debug, Default)]
pub(super) struct Dependencies {
    pub(super) after: Vec<Vec<u32>>,
    pub(super) restarts_with: Vec<Vec<u32>>,
}

pub(super) fn dependencies(services: &[Service]) -> Result<Dependencies, BuildError> {
    let indices = indices(services)?;
    let mut dependencies = Dependencies::default();
    for service in services {
        let find = |name: &Arc<str>| {
            let unknown =
                || BuildError::UnknownDependency { service: Arc::clone(&service.name), dependency: Arc::clone(name) };
            indices.get(&**name).copied().ok_or_else(unknown)
        };
        let restarts_with: Vec<u32> = service.restart_with.iter().map(find).collect::<Result<_, _>>()?;
        let mut after: Vec<u32> = service.after.iter().map(find).collect::<Result<_, _>>()?;
        after.extend(&restarts_with);
        dependencies.after.push(without_doubles(after));
        dependencies.restarts_with.push(without_doubles(restarts_with));
    }
    match circle(&dependencies.after) {
        Some(circle) => {
            let name = |id: u32| services[id as usize].name.to_string();
            Err(BuildError::Cycle { circle: circle.into_iter().map(name).collect() })
        }
        None => Ok(dependencies),
    }
}

fn indices(services: &[Service]) -> Result<HashMap<&str, u32>, BuildError> {
    let mut indices = HashMap::new();
    for (index, service) in (0..).zip(services) {
        if indices.insert(&*service.name, index).is_some() {
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
