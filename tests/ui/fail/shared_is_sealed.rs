//! Only guards, flights and limiters can be shared.

use std::rc::Rc;

use onelane::guard::Shared;

fn share(_: Shared<Rc<()>>) {}

fn main() {}
