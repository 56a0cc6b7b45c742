{{/* Rules of network policies. None of them opens the addresses at which clouds give credentials to whoever asks. */}}

{{- define "inference-gateway.egressToDns" -}}
# Names.
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
  {{- with .Values.networkPolicy.dnsTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "inference-gateway.egressToApi" -}}
# The apiserver.
{{- include "inference-gateway.egressTo" (list .Values.networkPolicy.apiServer) | trim | nindent 0 }}
{{- end }}

{{/* Rules for a list of {cidrs, ports}. A network that holds the addresses of metadata is opened without these. */}}
{{- define "inference-gateway.egressTo" -}}
{{- range . }}
- ports:
    {{- range .ports }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  to:
    {{- range .cidrs }}
    - ipBlock:
        cidr: {{ . | quote }}
        {{- if eq . "0.0.0.0/0" }}
        except: [169.254.0.0/16]
        {{- else if has . (list "::/0" "fc00::/7" "fd00::/8") }}
        except: ["fd00:ec2::254/128"]
        {{- end }}
    {{- end }}
{{- end }}
{{- end }}

{{/*
Networks that reach those addresses and from which they cannot be taken by the usual exception are refused: IPv4 by arithmetic
over the first two numbers, IPv6 where the address itself is meant.
*/}}
{{- define "inference-gateway.checkNetworks" -}}
{{- range append .Values.networkPolicy.modelHosts .Values.networkPolicy.apiServer }}
{{- range .cidrs }}
{{- $reaches := hasPrefix "fd00:ec2:" . }}
{{- $bits := splitList "/" . | last | int }}
{{- if and (contains "." .) (gt $bits 0) }}
{{- $numbers := splitList "." . }}
{{- $first := index $numbers 0 | int }}
{{- $second := index $numbers 1 | int }}
{{- $reaches = and (eq $first 169) (eq (include "inference-gateway.upperBits" (list $second (sub 16 $bits))) (include "inference-gateway.upperBits" (list 254 (sub 16 $bits)))) }}
{{- if le $bits 8 }}
{{- $reaches = eq (include "inference-gateway.upperBits" (list $first (sub 8 $bits))) (include "inference-gateway.upperBits" (list 169 (sub 8 $bits))) }}
{{- end }}
{{- end }}
{{- if $reaches }}
{{- fail (printf "networkPolicy opens %s, which reaches the addresses at which clouds hand out credentials (169.254.0.0/16, fd00:ec2::254): name smaller networks" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* (list number n): the number without its n lowest bits. */}}
{{- define "inference-gateway.upperBits" -}}
{{- $number := index . 0 }}
{{- range until (index . 1 | max 0 | int) }}{{ $number = div $number 2 }}{{ end }}
{{- $number }}
{{- end }}
