{{/* The section `auth` of the agents' configuration. Takes the root. */}}
{{- define "kuik.auth.agent" -}}
{{- include "kuik.section" (pick .Values.auth "mode" "proofTTL" "onUpstreamDown" "shareRegistryAuth") -}}
{{- end -}}

{{/* The section `auth` of the webhook's configuration. Takes the root. Lifetimes that cannot both be meant are refused, before a webhook does. */}}
{{- define "kuik.auth.webhook" -}}
{{- with .Values.auth.tokens -}}
{{- $token := include "kuik.seconds" .lifetime | int64 -}}
{{- if lt $token (int64 60) -}}
{{- fail (printf "auth.tokens.lifetime: %s: expected at least 1m" .lifetime) -}}
{{- end -}}
{{- if lt (include "kuik.seconds" .keyLifetime | int64) (mul 2 $token) -}}
{{- fail (printf "auth.tokens.keyLifetime: %s is less than twice lifetime, which is %s: expected at least that" .keyLifetime .lifetime) -}}
{{- end -}}
{{- end -}}
mode: {{ .Values.auth.mode | quote }}
tokenLifetime: {{ .Values.auth.tokens.lifetime | quote }}
keyLifetime: {{ .Values.auth.tokens.keyLifetime | quote }}
{{- end -}}

{{/* Namespaces whose pods never reach the webhook: a list, as JSON. Takes the root. */}}
{{- define "kuik.ignoredNamespaces" -}}
{{- concat (list "kube-system" .Release.Namespace) (.Values.controllers.webhook.ignoredNamespaces | default list) | uniq | toRawJson -}}
{{- end -}}
