//! A kind of stage as small as may be, of which a test states what it is about: `Kind { retryable: true, ..kind(…) }`.

use refrain_cache::ArtifactKind;
use refrain_engine::kind::{Context, Kind, MAIN, NodeResult, OutputDecl, StageError};

/// A kind without parameters whose stages make a file.
pub fn kind(name: &'static str, run: fn(&Context<'_>) -> Result<NodeResult, StageError>) -> Kind {
    Kind {
        name,
        about: "For this test",
        components: &[],
        versions: None,
        params: &[],
        adds: &[],
        outputs: |_| vec![OutputDecl { name: MAIN.into(), kind: ArtifactKind::File }],
        check: |_, _| None,
        expand: None,
        canonicalize: None,
        metrics: &[],
        close_elsewhere: true,
        retryable: false,
        tokens: None,
        over: None,
        served: &[],
        requests: None,
        memory: None,
        run,
    }
}
