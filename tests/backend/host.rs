//! Locks in files, over the processes of a host.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use onelane::KeyedGuard;
use onelane::backend::{Host, conformance};

use super::{domain, guard};

/// A directory that is removed at the end.
struct TestDirectory(PathBuf);

impl TestDirectory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("onelane-locks-{:x}", fastrand::u64(..)));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        Self(path)
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_keeps_all_rules() {
    let directory = TestDirectory::new();
    let violations = conformance::check(|| Host::new(&directory.0)).await;
    assert!(violations.is_empty(), "{violations:#?}");
}

#[tokio::test]
async fn misuse_is_an_error_that_says_what_to_do() {
    let directory = TestDirectory::new();
    let connect = async |path: PathBuf| domain(|domain| domain).connect(Host::new(path)).await.unwrap_err().to_string();
    let missing = connect(directory.0.join("missing")).await;
    assert!(missing.contains("create it before the service"), "{missing}");

    let file = directory.0.join("file");
    fs::write(&file, "").unwrap();
    assert!(connect(file).await.contains("not a directory"));

    let shared = directory.0.join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(connect(shared).await.contains("chmod 755"));
}

#[tokio::test]
async fn symbolic_links_are_not_followed() {
    let directory = TestDirectory::new();
    let target = directory.0.join("target");
    symlink(&target, directory.0.join("test.report.locks")).unwrap();
    let locks = domain(|domain| domain);
    locks.connect(Host::new(&directory.0)).await.unwrap();
    assert!(guard(locks).acquire().await.is_err());
    assert!(!target.exists());
}

#[tokio::test]
async fn files_are_private_and_keys_leave_nothing_in_them() {
    let directory = TestDirectory::new();
    let locks = domain(|domain| domain);
    locks.connect(Host::new(&directory.0)).await.unwrap();
    let keyed = KeyedGuard::<usize>::builder("per/user").distributed(locks).build();
    for key in 0..10_000 {
        drop(keyed.acquire(key).await.unwrap());
    }
    let mut files: Vec<_> = fs::read_dir(&directory.0).unwrap().map(Result::unwrap).collect();
    files.sort_by_key(fs::DirEntry::file_name);
    let described: Vec<_> = files
        .iter()
        .map(|file| {
            let metadata = file.metadata().unwrap();
            (file.file_name().into_string().unwrap(), metadata.len(), metadata.permissions().mode() & 0o777)
        })
        .collect();
    let expected = [("test.per%2fuser.locks".to_owned(), 0, 0o600), ("test.per%2fuser.tokens".to_owned(), 24, 0o600)];
    assert_eq!(described, expected);
}
