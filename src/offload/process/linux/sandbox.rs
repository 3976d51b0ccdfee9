//! [`enter`], with which a worker enters the sandbox.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::error::Error;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

use super::system;
use crate::offload::process::sandbox::SandboxRules;

/// The Landlock version that a required sandbox needs. Earlier versions don't restrict the truncation of files.
const REQUIRED: ABI = ABI::V3;
/// The Landlock version that a sandbox uses where the kernel supports it.
const KNOWN: ABI = ABI::V6;

/// System calls that reach into other processes, or bypass this filter.
const DENIED: [libc::c_long; 5] = [
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_io_uring_setup,
];
const EXECUTE: [libc::c_long; 2] = [libc::SYS_execve, libc::SYS_execveat];
const NETWORK: [libc::c_long; 1] = [libc::SYS_socket];

/// Restricts this thread, and all threads and processes that this thread starts.
pub(super) fn enter(rules: &SandboxRules) -> Result<(), String> {
    if rules.is_required && system::threads().map_err(|error| error.to_string())? != 1 {
        return Err("the sandbox cannot restrict threads of the initializer: start them in a task".to_owned());
    }
    restrict_files(rules).map_err(|error| format!("the sandbox cannot restrict files: {error}"))?;
    match restrict_calls(rules) {
        Err(error) if rules.is_required => Err(format!("the sandbox cannot restrict system calls: {error}")),
        _ => Ok(()),
    }
}

/// Fails if a path does not exist, or if a required sandbox is not enforced.
fn restrict_files(rules: &SandboxRules) -> Result<(), Box<dyn Error>> {
    let level = if rules.is_required { CompatLevel::HardRequirement } else { CompatLevel::BestEffort };
    let mut files = Ruleset::default()
        .set_compatibility(level)
        .handle_access(AccessFs::from_all(REQUIRED))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?;
    for path in &rules.read {
        files = files.add_rule(beneath(path, AccessFs::from_read(KNOWN))?)?;
    }
    for path in &rules.write {
        files = files.add_rule(beneath(path, AccessFs::from_all(KNOWN))?)?;
    }
    // This also sets `no_new_privs`, so that no program gains privileges.
    files.restrict_self()?;
    Ok(())
}

/// Returns the rule of a path. Access rights of directories are left out if the path is a file.
fn beneath(path: &Path, access: BitFlags<AccessFs>) -> Result<PathBeneath<PathFd>, Box<dyn Error>> {
    Ok(PathBeneath::new(PathFd::new(path)?, access).set_compatibility(CompatLevel::BestEffort))
}

fn restrict_calls(rules: &SandboxRules) -> Result<(), Box<dyn Error>> {
    let mut denied = DENIED.to_vec();
    if !rules.allows_execute {
        denied.extend(EXECUTE);
    }
    if !rules.allows_network {
        denied.extend(NETWORK);
    }
    let denied: BTreeMap<i64, _> = denied.into_iter().map(|call| (call, Vec::new())).collect();
    let errno = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(denied, SeccompAction::Allow, errno, TargetArch::try_from(ARCH)?)?;
    // This sets `no_new_privs`, which a filter needs.
    apply_filter(&BpfProgram::try_from(filter)?)?;
    Ok(())
}
