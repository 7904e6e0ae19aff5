//! Names that the programs, the chart and their users agree on: labels, annotations, finalizers.
//! Those without `here` in their comment are kuik v1's.

/// The API group of our objects.
pub const GROUP: &str = "kuik.enix.io";

/// The version of our objects.
pub const VERSION: &str = "v1alpha1";

/// Label of a pod or anything else that a webhook may select: with the value [`IGNORE`], nothing is rewritten.
pub const CACHING_POLICY_LABEL: &str = "kube-image-keeper.enix.io/image-caching-policy";

/// The value of [`CACHING_POLICY_LABEL`] that turns rewriting off.
pub const IGNORE: &str = "ignore";

/// Label of a pod whose images were rewritten; its value is `true`.
pub const MANAGED_LABEL: &str = "kuik.enix.io/managed";

/// What kuik v1.0 used instead of [`MANAGED_LABEL`].
pub const MANAGED_LABEL_V1_0: &str = "kuik.enix.io/images-rewritten";

/// Annotation of a pod: `false` turns rewriting off for it.
pub const REWRITE_ANNOTATION: &str = "kuik.enix.io/rewrite-images";

/// Begins the annotation that keeps a container's original image.
pub const ORIGINAL_IMAGE_PREFIX: &str = "original-image-";

/// Begins the annotation that keeps an init container's original image.
pub const ORIGINAL_INIT_IMAGE_PREFIX: &str = "original-init-image-";

/// Begins the annotation that keeps an ephemeral container's original image. New here.
pub const ORIGINAL_EPHEMERAL_IMAGE_PREFIX: &str = "original-ephemeral-image-";

/// The most characters of a label's value, and of an annotation key's name part.
pub const LABEL_MAX_CHARS: usize = 63;

/// Annotation of a `CachedImage`: `true` has its tag asked for upstream now; it goes away when that was done.
pub const FORCE_UPDATE_ANNOTATION: &str = "cachedimage.kuik.enix.io/forceUpdate";

/// Label of a `CachedImage`: its repository, as [`crate::repository_label`] writes it.
pub const REPOSITORY_LABEL: &str = "kuik.enix.io/repository";

/// Label of what we made ourselves; its value is [`MANAGED_BY`].
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// The value of [`MANAGED_BY_LABEL`] on `CachedImage`s that were made for pods. New here: without it, an object was made by hand or by v1.
pub const MANAGED_BY: &str = "kube-image-keeper";

/// Finalizers that kuik v1 left on `CachedImage`s.
pub const V1_IMAGE_FINALIZER: &str = "cachedimage.kuik.enix.io/finalizer";

/// The audience of the tokens that agents show to the control API.
pub const TOKEN_AUDIENCE: &str = "kuik";

/// Annotation of our `CustomResourceDefinition`s: a hash of their `spec`. New here: without it, a definition is v1's.
pub const SCHEMA_ANNOTATION: &str = "kuik.enix.io/schema";
