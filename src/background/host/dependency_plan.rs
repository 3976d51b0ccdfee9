//! [`DependencyPlan`]: which services depend on which, checked when the host is built.

use std::collections::HashMap;
use std::sync::Arc;

use crate::background::error::BuildError;
use crate::background::service_guard::ServiceGuard;
use crate::background::spec::Service;
use crate::background::supervisor::Dependencies;

/// The services of a host by name and by dependency.
#[derive(Debug)]
pub(super) struct DependencyPlan {
    pub(super) indices: HashMap<Arc<str>, u32>,
    /// One entry for each service.
    pub(super) dependencies: Vec<Dependencies>,
}

impl DependencyPlan {
    pub(super) fn new(services: &[Service]) -> Result<Self, BuildError> {
        let indices = indices(services)?;
        let mut dependencies: Vec<Dependencies> = services.iter().map(|_| Dependencies::default()).collect();
        for (id, service) in (0..).zip(services) {
            for dependency in &service.dependencies {
                let unknown = || BuildError::UnknownDependency {
                    service: Arc::clone(&service.name),
                    dependency: Arc::clone(&dependency.name),
                };
                let needed = *indices.get(&dependency.name).ok_or_else(unknown)?;
                dependencies[id as usize].after.push(needed);
                dependencies[needed as usize].dependents.push(id);
                if dependency.restarts_with {
                    dependencies[id as usize].restarts_with.push(needed);
                    dependencies[needed as usize].restart_dependents.push(id);
                }
            }
        }
        // A service depends on the connection of its guard's domain, so its lock is released before the domain is
        // disconnected.
        for (id, service) in (0..).zip(services) {
            let connected_by = service.options.guard.as_ref().and_then(ServiceGuard::connected_by);
            if let Some(needed) = connected_by.and_then(|name| indices.get(&*name)) {
                dependencies[id as usize].after.push(*needed);
                dependencies[*needed as usize].dependents.push(id);
            }
        }
        // A service may name a dependency twice.
        for Dependencies { after, dependents, restarts_with, restart_dependents } in &mut dependencies {
            for ids in [after, dependents, restarts_with, restart_dependents] {
                ids.sort_unstable();
                ids.dedup();
            }
        }
        let after: Vec<&[u32]> = dependencies.iter().map(|dependencies| &*dependencies.after).collect();
        if let Some(cycle) = cycle(&after) {
            let name = |id: u32| services[id as usize].name.to_string();
            return Err(BuildError::Cycle { cycle: cycle.into_iter().map(name).collect() });
        }
        Ok(Self { indices, dependencies })
    }
}

fn indices(services: &[Service]) -> Result<HashMap<Arc<str>, u32>, BuildError> {
    let mut indices = HashMap::with_capacity(services.len());
    for (index, service) in (0..).zip(services) {
        if let Some(first) = indices.insert(Arc::clone(&service.name), index) {
            let name = Arc::clone(&service.name);
            return Err(BuildError::DuplicateName { name, first: first as usize, second: index as usize });
        }
    }
    Ok(indices)
}

/// Returns the path from a service along its dependencies back to itself, if one exists. The search does not recurse,
/// since a chain may be long.
fn cycle(after: &[impl AsRef<[u32]>]) -> Option<Vec<u32>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        OnPath,
        Done,
    }
    let mut marks = vec![Mark::New; after.len()];
    for start in 0..after.len() as u32 {
        let mut path = vec![(start, 0)];
        while let Some((id, next)) = path.last_mut() {
            let (id, dependency) = (*id, after[*id as usize].as_ref().get(*next).copied());
            *next += 1;
            match (marks[id as usize], dependency) {
                (Mark::Done, _) | (_, None) => {
                    marks[id as usize] = Mark::Done;
                    path.pop();
                }
                (_, Some(dependency)) => {
                    marks[id as usize] = Mark::OnPath;
                    if marks[dependency as usize] == Mark::OnPath {
                        let path = path.into_iter().map(|(id, _)| id).skip_while(|id| *id != dependency);
                        return Some(path.chain([dependency]).collect());
                    }
                    path.push((dependency, 0));
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
    fn cycle_is_reported_in_the_order_of_its_path() {
        assert_eq!(cycle(&[vec![], vec![0], vec![0, 1]]), None);
        assert_eq!(cycle(&[vec![0]]), Some(vec![0, 0]));
        assert_eq!(cycle(&[vec![], vec![2, 0], vec![3], vec![1]]), Some(vec![1, 2, 3, 1]));
        assert_eq!(cycle(&[vec![1], vec![2], vec![1]]), Some(vec![1, 2, 1]));
    }

    #[test]
    fn long_chain_does_not_overflow_the_stack() {
        let chain: Vec<Vec<u32>> = (0..200_000).map(|id: u32| id.checked_sub(1).into_iter().collect()).collect();
        assert_eq!(cycle(&chain), None);
    }

    #[test]
    fn shared_dependencies_are_visited_once() {
        let ladder: Vec<Vec<u32>> = (0..10_000_u32).map(|id| (id.saturating_sub(8)..id).collect()).collect();
        assert_eq!(cycle(&ladder), None);
    }
}
