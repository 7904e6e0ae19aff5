{{/* A PodMonitor: dict "root" $ "component" "agent" "monitor" .Values.agent.podMonitor. */}}
{{- define "kuik.podMonitor" -}}
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: {{ include "kuik.fullname" .root }}-{{ .component }}
  labels:
    {{- with .monitor.extraLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- include "kuik.labels" . | nindent 4 }}
spec:
  selector:
    matchLabels:
      {{- include "kuik.selector" . | nindent 6 }}
  podMetricsEndpoints:
    - {{ include "kuik.endpoint" .monitor | nindent 6 | trim }}
{{- end -}}

{{/* What PodMonitor and ServiceMonitor say about a target. */}}
{{- define "kuik.endpoint" -}}
port: metrics
path: /metrics
interval: {{ .scrapeInterval }}
scrapeTimeout: {{ .scrapeTimeout }}
{{- with .relabelings }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
