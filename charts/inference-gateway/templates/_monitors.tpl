{{/* What ServiceMonitor and PodMonitor say of an endpoint alike. */}}
{{- define "inference-gateway.scrape" -}}
port: ops
path: /metrics
{{- range $field := list "interval" "scrapeTimeout" "scheme" "bearerTokenFile" }}
{{- with get $ $field }}
{{ $field }}: {{ . | quote }}
{{- end }}
{{- end }}
{{- if .honorLabels }}
honorLabels: true
{{- end }}
{{- range $field := list "relabelings" "metricRelabelings" "tlsConfig" "authorization" }}
{{- with get $ $field }}
{{ $field }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* What they say beside it. */}}
{{- define "inference-gateway.scrapeLimits" -}}
{{- with .jobLabel }}
jobLabel: {{ . | quote }}
{{- end }}
{{- with .sampleLimit }}
sampleLimit: {{ . }}
{{- end }}
{{- end }}

{{- define "inference-gateway.checkMonitors" -}}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled }}
{{- fail "serviceMonitor.enabled and podMonitor.enabled would scrape every pod twice: enable one of them" }}
{{- end }}
{{- if and .Values.scrapeAnnotations (or .Values.serviceMonitor.enabled .Values.podMonitor.enabled) }}
{{- fail "scrapeAnnotations and a ServiceMonitor or PodMonitor would scrape every pod twice: use one of them" }}
{{- end }}
{{- end }}

{{/* Annotations for a Prometheus that finds pods by them. */}}
{{- define "inference-gateway.scrapeAnnotations" -}}
{{- if .Values.scrapeAnnotations }}
prometheus.io/scrape: "true"
prometheus.io/port: "3001"
prometheus.io/path: /metrics
{{- end }}
{{- end }}
