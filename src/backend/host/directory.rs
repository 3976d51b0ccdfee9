//! [`Directory`], the directory of the lock files.

use std::fmt::Write;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{self, Path, PathBuf};

use nix::libc::{O_CLOEXEC, O_NOFOLLOW};
use nix::sys::statfs::{self, FsType};
use nix::unistd::Uid;

use crate::backend::BackendError;

/// Writable by the group, or by other users.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// File systems whose locks or events do not reach all processes, or do not reach them when a process ends. FUSE is one
/// of them, because the kernel does not report what is behind it: a local file system, SSH or a cluster.
const REMOTE: [(FsType, &str); 15] = [
    (statfs::NFS_SUPER_MAGIC, "NFS"),
    (statfs::SMB_SUPER_MAGIC, "SMB"),
    (FsType(0xff53_4d42), "CIFS"),
    (FsType(0xfe53_4d42), "SMB2"),
    (statfs::CODA_SUPER_MAGIC, "Coda"),
    (FsType(0x0102_1997), "9P"),
    (statfs::FUSE_SUPER_MAGIC, "FUSE"),
    (FsType(0x00c3_6400), "CephFS"),
    (FsType(0x5346_414f), "AFS"),
    (FsType(0x0bd0_0bd0), "Lustre"),
    (FsType(0x4750_4653), "GPFS"),
    (FsType(0x7461_636f), "OCFS2"),
    (FsType(0x0116_1970), "GFS2"),
    (FsType(0x1983_0326), "BeeGFS"),
    (FsType(0x2003_0528), "OrangeFS"),
];

/// The directory of the lock files, and the domain to which the files belong.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    domain: String,
}

impl Directory {
    /// Checks the directory.
    pub(super) fn open(path: &Path, domain: &str) -> Result<Self, BackendError> {
        let failed =
            |error: io::Error, what: &str| BackendError::new(format!("{what}: {}", path.display())).with_source(error);
        // The process may change its current directory later.
        let path =
            &path::absolute(path).map_err(|error| failed(error, "the directory of the locks has no absolute path"))?;
        let directory = File::open(path).map_err(|error| {
            failed(error, "the directory of the locks can't be opened: create it before the service")
        })?;
        let metadata =
            directory.metadata().map_err(|error| failed(error, "the directory of the locks can't be read"))?;
        if !metadata.is_dir() {
            return Err(BackendError::new(format!("the path of the locks is not a directory: {}", path.display())));
        }
        if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
            return Err(BackendError::new(format!(
                "other users may write to the directory of the locks, and could replace its files: use a directory of \
                 this service alone, after chmod 755: {}",
                path.display()
            )));
        }
        let user = Uid::effective().as_raw();
        if metadata.uid() != user && metadata.uid() != 0 {
            return Err(BackendError::new(format!(
                "the directory of the locks belongs to user {}, and the process runs as user {user}: use a directory of \
                 this user: {}",
                metadata.uid(),
                path.display()
            )));
        }
        let kind = statfs::fstatfs(&directory)
            .map_err(|error| failed(error.into(), "the file system of the locks can't be examined"))?
            .filesystem_type();
        if let Some((_, name)) = REMOTE.iter().find(|(remote, _)| *remote == kind) {
            return Err(BackendError::new(format!(
                "the file system of the locks is {name}, which is or may be on the network, where locks don't work \
                 reliably: use a local directory, such as one in /run, or another backend: {}",
                path.display()
            )));
        }
        let this = Self { path: path.to_owned(), domain: domain.to_owned() };
        this.try_create()?;
        Ok(this)
    }

    /// Checks that files can be created. The directory may belong to root or be read-only, and the store then refuses
    /// to connect, before the first caller arrives.
    fn try_create(&self) -> Result<(), BackendError> {
        let probe = self.path.join(format!("{}.probe", encoded(&self.domain)));
        options().open(&probe).map_err(|error| {
            BackendError::new(format!(
                "no file can be created in the directory of the locks: make it belong to the user of the process: {}",
                self.path.display()
            ))
            .with_source(error)
        })?;
        // This fails only if another process has removed the file.
        let _ = fs::remove_file(probe);
        Ok(())
    }

    /// Returns the path of a file of a guard.
    pub(super) fn file(&self, guard: &str, kind: &str) -> PathBuf {
        self.path.join(format!("{}.{}.{kind}", encoded(&self.domain), encoded(guard)))
    }

    /// Opens a file of a guard, or creates it.
    pub(super) fn open_file(&self, guard: &str, kind: &str) -> Result<File, BackendError> {
        let path = self.file(guard, kind);
        let failed = |text: &str| BackendError::new(format!("{text}: {}", path.display()));
        let file = options()
            .open(&path)
            .map_err(|error| failed("the lock file can't be opened (symbolic links are refused)").with_source(error))?;
        let metadata = file.metadata().map_err(|error| failed("the lock file can't be read").with_source(error))?;
        if !metadata.is_file() {
            return Err(failed("the lock file is not a regular file: remove it"));
        }
        if metadata.uid() != Uid::effective().as_raw() || metadata.mode() & WRITABLE_BY_OTHERS != 0 {
            return Err(failed("the lock file belongs to another user, or others may write to it: remove it"));
        }
        Ok(file)
    }

    /// Returns `true` if this is still the file that was opened.
    pub(super) fn is_current(&self, guard: &str, kind: &str, file: &File) -> bool {
        let id = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
        match (fs::symlink_metadata(self.file(guard, kind)), file.metadata()) {
            (Ok(current), Ok(opened)) => id(&current) == id(&opened),
            _ => false,
        }
    }
}

/// Returns the options that open a file of the directory, or create it.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(O_NOFOLLOW | O_CLOEXEC);
    options
}

/// Replaces the characters of a name that a file name should not have.
fn encoded(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(encoded, "%{byte:02x}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mounting these file systems requires servers, so this test uses the numbers that `statfs(2)` lists.
    #[test]
    fn local_file_systems_are_accepted_and_remote_ones_are_not() {
        let name = |magic| REMOTE.iter().find(|(kind, _)| *kind == FsType(magic)).map(|(_, name)| *name);
        for local in [0xef53, 0x0102_1994, 0x5846_5342, 0x9123_683e, 0x794c_7630, 0x2fc1_2fc1, 0xf2f5_2010, 0x8584_58f6]
        {
            assert_eq!(name(local), None, "{local:x}");
        }
        for (magic, expected) in [(0x6969, "NFS"), (0x6573_5546, "FUSE"), (0x7375_7245, "Coda"), (0x517b, "SMB")] {
            assert_eq!(name(magic), Some(expected));
        }
    }
}
