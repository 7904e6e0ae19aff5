{{/* The one command that lists pods whose images are pulled from the agents. Takes the agent's values. */}}
{{- define "kuik.listCommand" -}}
kubectl get pods -A -o jsonpath='{range .items[*]}{.metadata.namespace}/{.metadata.name}{" "}{.spec.initContainers[*].image}{" "}{.spec.containers[*].image}{"\n"}{end}' | grep localhost:{{ .hostPort }}/
{{- end -}}

{{/* kuik v1's values that were given and mean nothing, with what replaces them. */}}
{{- define "kuik.ignored" -}}
{{- $named := list -}}
{{- range $entry := (.Files.Get "files/ignored-values.yaml" | fromYaml).ignored -}}
{{- $here := $.Values -}}
{{- $parent := trimSuffix ".*" $entry.path -}}
{{- $given := true -}}
{{- range $key := splitList "." $parent -}}
{{- $given = and $given (kindIs "map" $here) -}}
{{- $given = and $given (hasKey ($given | ternary $here dict) $key) -}}
{{- $here = $given | ternary (get ($given | ternary $here dict) $key) dict -}}
{{- end -}}
{{- $paths := $given | ternary (list $entry.path) list -}}
{{- if hasSuffix ".*" $entry.path -}}
{{- $paths = list -}}
{{- range $key := kindIs "map" $here | ternary $here dict | keys | sortAlpha -}}
{{- $paths = append $paths (printf "%s.%s" $parent $key) -}}
{{- end -}}
{{- end -}}
{{- $new := without $paths -}}
{{- range $named -}}
{{- $new = without $new . -}}
{{- end -}}
{{- if $new }}
- {{ join ", " $new }}: {{ $entry.instead }}.
{{- $named = concat $named $new -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What is worth knowing about the values that were given: dict "root" $ "agent" $agent. */}}
{{- define "kuik.warnings" -}}
{{- $values := .root.Values -}}
{{- $proxy := $values.proxy | default dict -}}
{{- if include "kuik.isV1Image" $values.controllers.image }}
- controllers.image names an image of kuik v1: kube-image-keeper/webhook:{{ .root.Chart.AppVersion }} is used instead.
{{- end -}}
{{- if include "kuik.isV1Image" .agent.image }}
- {{ hasKey $proxy "image" | ternary "proxy" "agent" }}.image names an image of kuik v1: kube-image-keeper/agent:{{ .root.Chart.AppVersion }} is used instead.
{{- end -}}
{{- range $values.insecureRegistries }}
- insecureRegistries: the certificate of {{ . }} is not checked. If it speaks no TLS at all, set registries."{{ . }}".plainHttp to true.
{{- end -}}
{{- if $values.controllers.webhook.ignorePullPolicyAlways }}
- controllers.webhook.ignorePullPolicyAlways is true, kuik v1's default: images with policy Always, or without a tag, are not kept. Without it they are, and tags that moved are noticed.
{{- end -}}
{{- $open := eq $values.auth.mode "none" -}}
{{- if $open }}
- auth.mode is none: every pod of every namespace gets every image that is cached, private ones included, as with kuik v1. With auth.mode=namespace a private image goes to namespaces whose own pull secrets open it, and to no others.
{{- end -}}
{{- if not (has .agent.hostIp (list "127.0.0.1" "::1")) }}
- agent.hostIp is {{ .agent.hostIp }}: whoever reaches that address of a node gets every {{ $open | ternary "image that is kept there, private ones included" "public image that is kept there, and with the pull token of a namespace its private ones" }}.
{{- end -}}
{{- $shared := or $open $values.auth.shareRegistryAuth -}}
{{- if and .agent.registryAuth.secretName $shared }}
- agent.registryAuth: every pod of the cluster can pull what the Secret {{ .agent.registryAuth.secretName }} may pull.
{{- end -}}
{{- if and (not .agent.registryAuth.secretName) $values.auth.shareRegistryAuth }}
- auth.shareRegistryAuth shares nothing: agent.registryAuth.secretName is not set.
{{- end -}}
{{- range $values.controllers.credentialHelpers }}
- controllers.credentialHelpers: {{ $open | ternary "with auth.mode none nobody is asked for credentials, so that the one for" "every namespace can pull what the cloud identity may pull from" }} {{ .match }}{{ $open | ternary " does nothing" "" }}.
{{- end -}}
{{- if lt (int $values.controllers.replicas) 2 }}
- controllers.replicas is {{ $values.controllers.replicas }}: pods that are created while the webhook restarts are not rewritten.
{{- end -}}
{{- end -}}
