{{/* The values of the agent, with kuik v1's `proxy` laid over them. Use: include "kuik.agent" . | fromYaml */}}
{{- define "kuik.agent" -}}
{{- $agent := deepCopy .Values.agent -}}
{{- $proxy := deepCopy (.Values.proxy | default dict) -}}
{{- if not $agent.logFilter -}}
{{- $_ := set $agent "logFilter" (hasKey $proxy "verbosity" | ternary (include "kuik.logLevel" $proxy.verbosity) "info") -}}
{{- end -}}
{{- $aliases := omit $proxy "verbosity" "readinessProbe" "livenessProbe" "kubeApiRateLimits" -}}
{{- $defaults := (.Files.Get "files/agent-defaults.yaml" | fromYaml).agent -}}
{{- include "kuik.overlay" (dict "onto" $agent "from" $aliases "defaults" $defaults) -}}
{{- toYaml $agent -}}
{{- end -}}

{{/* Sets in `onto` what `from` holds, but where `onto` is no longer what `defaults` says: that was set on purpose. Prints nothing. */}}
{{- define "kuik.overlay" -}}
{{- $context := . -}}
{{- range $key, $given := .from -}}
{{- $ours := get $context.onto $key -}}
{{- $default := get $context.defaults $key -}}
{{- if and (kindIs "map" $ours) (kindIs "map" $given) -}}
{{- include "kuik.overlay" (dict "onto" $ours "from" $given "defaults" (kindIs "map" $default | ternary $default dict)) -}}
{{- else if eq (toJson $ours) (toJson $default) -}}
{{- $_ := set $context.onto $key $given -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The registries of the agents' configuration: `registries`, and `insecureRegistries` where it does not say otherwise. */}}
{{- define "kuik.registries" -}}
{{- $registries := deepCopy (.Values.registries | default dict) -}}
{{- range .Values.insecureRegistries -}}
{{- $registry := get $registries . | default dict -}}
{{- if not (hasKey $registry "insecureSkipVerify") -}}
{{- $_ := set $registry "insecureSkipVerify" true -}}
{{- end -}}
{{- $_ := set $registries . $registry -}}
{{- end -}}
{{- toYaml $registries -}}
{{- end -}}

{{/* The agents' configuration file: dict "root" $ "agent" $agent. */}}
{{- define "kuik.agent.config" -}}
{{- with .agent.cache -}}
{{- include "kuik.agent.checkCache" . -}}
cache:
  {{- include "kuik.section" . | trim | nindent 2 }}
{{ end -}}
{{- include "kuik.agent.settings" . -}}
{{- end -}}

{{/* What of it agents read only when they start: another one is another pod. They read `cache` again when it changes. */}}
{{- define "kuik.agent.settings" -}}
drainTimeout: {{ .agent.drainTimeout }}
auth:
  {{- include "kuik.auth.agent" .root | trim | nindent 2 }}
tags:
  {{- include "kuik.section" .agent.tags | trim | nindent 2 }}
limits:
  {{- include "kuik.section" .agent.limits | trim | nindent 2 }}
upstream:
  {{- include "kuik.section" .agent.upstream | trim | nindent 2 }}
{{- with include "kuik.registries" .root | fromYaml }}
registries:
  {{- range $host, $registry := . }}
  {{ $host | quote }}: {{ toRawJson $registry }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Refuses values of `agent.cache` that cannot both be meant, before an agent does. Prints nothing. */}}
{{- define "kuik.agent.checkCache" -}}
{{- if and .lowWatermark .highWatermark -}}
{{- if ge (float64 .lowWatermark) (float64 .highWatermark) -}}
{{- fail (printf "agent.cache.lowWatermark: %v is not below highWatermark, which is %v: expected less" .lowWatermark .highWatermark) -}}
{{- end -}}
{{- end -}}
{{- $free := toString .minFree -}}
{{- if hasSuffix "%" $free -}}
{{- if ge (trimSuffix "%" $free | float64) 100.0 -}}
{{- fail (printf "agent.cache.minFree: %s of the file system leaves no room for anything: expected less" $free) -}}
{{- end -}}
{{- $size := toString .maxSize -}}
{{- if and (hasSuffix "%" $size) (gt (addf (trimSuffix "%" $size | float64) (trimSuffix "%" $free | float64)) 100.0) -}}
{{- fail (printf "agent.cache.maxSize: %s and minFree, which is %s, are more than the file system together: expected less" $size $free) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Where pulls are answered: in the pod's network the port is fixed, and hostPort leads to it. Takes the agent's values. */}}
{{- define "kuik.agent.listen" -}}
{{- if not .hostNetwork -}}0.0.0.0:7439
{{- else if has .hostIp (list "127.0.0.1" "::1") -}}
{{- printf "127.0.0.1:%d,[::1]:%d" (int .hostPort) (int .hostPort) -}}
{{- else -}}
{{- include "kuik.hostPort" (dict "host" .hostIp "port" .hostPort) -}}
{{- end -}}
{{- end -}}

{{/* The address of probes and metrics: dict "root" $ "agent" $agent. */}}
{{- define "kuik.agent.metricsIp" -}}
{{- $scraped := or .agent.podMonitor.create .root.Values.serviceMonitor.create -}}
{{- .agent.metricsIp | default (and .agent.hostNetwork (not $scraped) | ternary "127.0.0.1" "0.0.0.0") -}}
{{- end -}}

{{/* IP:PORT, with brackets where they are needed. */}}
{{- define "kuik.hostPort" -}}
{{- contains ":" .host | ternary (printf "[%s]:%d" .host (int .port)) (printf "%s:%d" .host (int .port)) -}}
{{- end -}}

{{/* A probe of the agent: dict "path" "/livez" "agent" $agent "metricsIp" IP. The kubelet asks the pod's address unless it is told another,
and on the node's network the port may be open on loopback alone. */}}
{{- define "kuik.agent.probe" -}}
httpGet:
  path: {{ .path }}
  port: metrics
  {{- if .agent.hostNetwork }}
  host: {{ get (dict "0.0.0.0" "127.0.0.1" "::" "::1") .metricsIp | default .metricsIp | quote }}
  {{- end }}
timeoutSeconds: 5
{{- end -}}

{{/* The security context of the agents' pods.
User 0 with hostPath: the kubelet makes the directory as root with mode 0755 and changes no owner, so nobody else can write there. It is a user 0
without any capability, on a read-only root file system: what it can do is read and write this one directory. */}}
{{- define "kuik.agent.podSecurityContext" -}}
{{- $context := dict "seccompProfile" (dict "type" "RuntimeDefault") "runAsUser" 0 "runAsGroup" 0 -}}
{{- if ne .persistence.type "hostPath" -}}
{{- range $key := list "runAsUser" "runAsGroup" "fsGroup" -}}
{{- $_ := set $context $key 65532 -}}
{{- end -}}
{{- $_ := set $context "runAsNonRoot" true -}}
{{- end -}}
{{- range $key, $value := .podSecurityContext -}}
{{- $_ := set $context $key $value -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}
