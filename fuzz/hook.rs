//! A panic is a finding, unless a guard of Refrain's own contains it: then it is an error to people.

/// Takes the place of libFuzzer's hook, which knows nothing of guards.
pub fn install() {
    std::panic::set_hook(Box::new(|panic| {
        if !refrain_cache::panic_is_contained() {
            eprintln!("{panic}");
            std::process::abort();
        }
    }));
}
