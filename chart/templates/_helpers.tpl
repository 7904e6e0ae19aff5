{{/* What the names of all objects begin with. The longest suffix, -webhook, must fit into the 63 characters of a Service's name. */}}
{{- define "kuik.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 55 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 55 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 55 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels of an object: dict "root" $ "component" "agent"; the component may be absent. */}}
{{- define "kuik.labels" -}}
{{ include "kuik.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end -}}

{{/* The labels by which pods are selected. They must never change: selectors of a DaemonSet and a Deployment are immutable. */}}
{{- define "kuik.selector" -}}
app.kubernetes.io/name: kube-image-keeper
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* The name of a service account: dict "root" $ "component" "agent". */}}
{{- define "kuik.serviceAccount" -}}
{{- printf "%s-%s" (.root.Values.serviceAccount.name | default (include "kuik.fullname" .root)) .component -}}
{{- end -}}

{{/* What the kubelet calls the address of a Service in the environment: dict "root" $ "service" "control". */}}
{{- define "kuik.serviceHost" -}}
{{- printf "%s_%s_SERVICE_HOST" (include "kuik.fullname" .root) .service | upper | replace "-" "_" -}}
{{- end -}}

{{/* "true" for the image of kuik v1, which an old values file may name: one image for all its programs, always named kube-image-keeper. */}}
{{- define "kuik.isV1Image" -}}
{{- if or (eq (base (.repository | default "")) "kube-image-keeper") (regexMatch "^v?1\\." (.tag | default "" | toString)) -}}true{{- end -}}
{{- end -}}

{{/* A reference: dict "root" $ "image" .Values.agent.image "component" "agent". */}}
{{- define "kuik.image" -}}
{{- if include "kuik.isV1Image" .image -}}
{{- printf "kube-image-keeper/%s:%s" .component .root.Chart.AppVersion -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* A log filter from kuik v1's verbosity: a level's name, or klog's number. */}}
{{- define "kuik.logLevel" -}}
{{- $given := . | toString | lower -}}
{{- if regexMatch "^-?[0-9]+$" $given -}}{{ gt (int $given) 1 | ternary "debug" "info" }}
{{- else if eq $given "warning" -}}warn
{{- else if has $given (list "dpanic" "panic" "fatal") -}}error
{{- else -}}{{ $given }}
{{- end -}}
{{- end -}}

{{/* Seconds in a duration such as 1h30m, rounded up. */}}
{{- define "kuik.seconds" -}}
{{- $milliseconds := 0 -}}
{{- range regexFindAll "[0-9]+(ms|s|m|h|d)" . -1 -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- $milliseconds = add $milliseconds (mul (trimSuffix $unit . | int64) (get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000) $unit)) -}}
{{- end -}}
{{- div (add $milliseconds 999) 1000 -}}
{{- end -}}

{{/* The keys of a map as lines of a program's configuration. As JSON, since YAML would write large numbers as 1e+06. */}}
{{- define "kuik.section" -}}
{{- range $key, $value := . }}
{{ $key }}: {{ toRawJson $value }}
{{- end }}
{{- end -}}
